//! What the functions of a chain's worker say of themselves: the notices go by it where the
//! configuration says nothing, and runnerctl shows whose word each value is. A chain's own words:
//! they concern that chain alone.

use std::collections::BTreeMap;

use super::Master;
use crate::config::model::{Chain, Command};
use crate::policy::options;
use crate::wire::worker::Options;

impl Master {
    /// A worker of the chain has become ready.
    pub(super) fn take_options(&mut self, chain: &str, told: BTreeMap<String, Options>) {
        let Some(mut applied) = self.chain(chain).cloned() else { return };
        let known = self.options.entry(chain.to_owned()).or_default();
        for task in &mut applied.tasks {
            if let (Command::Call(_), Some(own)) = (&task.command, told.get(&task.name)) {
                known.insert(task.name.clone(), *own);
            }
            if let Some(own) = known.get(&task.name) {
                *task = options::apply(task, own);
            }
        }
        self.desk.adjust(&applied);
    }

    /// For `explain`: of each task of a worker the values in force, and whose word they are.
    pub(super) fn explain_options(&self, chain: &Chain) -> Vec<String> {
        let none = BTreeMap::new();
        let known = self.options.get(&chain.name).unwrap_or(&none);
        let mut lines = Vec::new();
        for task in &chain.tasks {
            if !matches!(task.command, Command::Call(_)) {
                continue;
            }
            let own = known.get(&task.name);
            let place = |_: &str| "the configuration".to_owned();
            let mut line = options::describe(task, &own.copied().unwrap_or_default(), place);
            if own.is_none() {
                line.push_str("; what its function says is told once its worker is ready");
            }
            lines.push(line);
        }
        lines
    }

    /// What is known of the chain's tasks, by their names.
    pub(super) fn options_of(&self, chain: &str) -> Vec<serde_json::Value> {
        let known = self.options.get(chain).into_iter().flatten();
        known.map(|(task, own)| serde_json::json!({ "task": task, "options": own })).collect()
    }
}
