//! What a worker's function says of itself, put together with the configuration: the file's word
//! holds, then the function's, then the default.

use std::time::Duration;

use crate::config::model::Task;
use crate::wire::worker::Options;

/// Where a value in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration says it; the function may say something else.
    File,
    /// The function says it.
    Function,
    /// Nobody says anything.
    Default,
}

/// The task as it runs.
pub fn apply(task: &Task, own: &Options) -> Task {
    let mut task = task.clone();
    let said = |field: &str| task.said.iter().any(|said| said == field);
    let (remind, overdue) = (said("remind_every"), said("overdue"));
    let weaker = |field: &str, own: Option<Duration>| own.filter(|_| !said(field));
    let success = weaker("success_cooldown", own.success_cooldown);
    let fail = weaker("fail_cooldown", own.fail_cooldown);
    let downtime = weaker("non_recoverable_downtime", own.non_recoverable_downtime);
    task.success_cooldown = success.unwrap_or(task.success_cooldown);
    task.fail_cooldown = fail.unwrap_or(task.fail_cooldown);
    if let Some(downtime) = downtime {
        task.non_recoverable_downtime = downtime;
        // Their defaults are that value.
        if !remind {
            task.remind_every = downtime;
        }
        if !overdue {
            task.overdue = Some(downtime);
        }
    }
    task
}

/// The options that a function can say, in the order of the manual: name, value in force, origin,
/// and what the function says.
pub fn origins(
    task: &Task,
    own: &Options,
) -> [(&'static str, Duration, Origin, Option<Duration>); 3] {
    let applied = apply(task, own);
    let row = |field: &'static str, value: Duration, own: Option<Duration>| {
        let origin = if task.said.iter().any(|said| said == field) {
            Origin::File
        } else if own.is_some() {
            Origin::Function
        } else {
            Origin::Default
        };
        (field, value, origin, own)
    };
    [
        row("success_cooldown", applied.success_cooldown, own.success_cooldown),
        row("fail_cooldown", applied.fail_cooldown, own.fail_cooldown),
        row(
            "non_recoverable_downtime",
            applied.non_recoverable_downtime,
            own.non_recoverable_downtime,
        ),
    ]
}

/// The task's options in one line for a person. `place` is where the configuration says a field.
pub fn describe(task: &Task, own: &Options, place: impl Fn(&str) -> String) -> String {
    let values = origins(task, own).map(|(field, value, origin, own)| {
        let whose = match (origin, own) {
            (Origin::File, Some(own)) => {
                let own = humantime::format_duration(own);
                format!("{}; its function says {own}", place(field))
            }
            (Origin::File, None) => place(field),
            (Origin::Function, _) => "its function".to_owned(),
            (Origin::Default, _) => "default".to_owned(),
        };
        format!("{field} {} ({whose})", humantime::format_duration(value))
    });
    format!("{}: {}", task.name, values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Command;

    fn task(said: &[&str]) -> Task {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        Task {
            name: "send_mail".into(),
            command: Command::Call("tasks.send_mail".into()),
            success_cooldown: hours(1),
            fail_cooldown: hours(2),
            non_recoverable_downtime: hours(12),
            remind_every: hours(12),
            timeout: None,
            overdue: Some(hours(12)),
            forget_after: hours(200),
            ok_exit: vec![0],
            to: Vec::new(),
            said: said.iter().map(|said| (*said).to_owned()).collect(),
        }
    }

    fn own(seconds: u64) -> Options {
        let all = Some(Duration::from_secs(seconds));
        Options { success_cooldown: all, fail_cooldown: all, non_recoverable_downtime: all }
    }

    #[test]
    fn the_file_is_stronger_than_the_function_and_that_than_a_default() {
        let three = Duration::from_secs(3);
        let applied = apply(&task(&["fail_cooldown", "overdue"]), &own(3));
        assert_eq!(applied.success_cooldown, three);
        assert_eq!(applied.fail_cooldown, Duration::from_secs(7200));
        assert_eq!((applied.non_recoverable_downtime, applied.remind_every), (three, three));
        assert_eq!(applied.overdue, Some(Duration::from_secs(12 * 3600)));
        assert_eq!(apply(&task(&[]), &Options::default()), task(&[]));
        let some = Options { success_cooldown: Some(three), ..Options::default() };
        let origins = origins(&task(&["fail_cooldown"]), &some).map(|row| row.2);
        assert_eq!(origins, [Origin::Function, Origin::File, Origin::Default]);
    }
}
