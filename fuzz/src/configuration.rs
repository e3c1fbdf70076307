//! What operators write: configurations, files of variables, other programs' files.

use std::path::Path;
use std::sync::OnceLock;

use runner::client::import::{Kind, import as imported};
use runner::config::model::Config;
use runner::config::{self, Defaults, File, Loaded, Want};

/// Reads bytes as the whole configuration.
pub fn load(bytes: &[u8]) -> Loaded {
    config::load(Path::new("runner.ron"), &Defaults::of_root(), &mut |want| match want {
        Want::Main(path) => {
            Ok(vec![File { name: path.to_owned(), path: path.to_owned(), bytes: bytes.to_vec() }])
        }
        Want::Include(_) => Ok(Vec::new()),
    })
}

/// A configuration or an error, every place inside its file, a text that a terminal may see, and
/// whatever is accepted is RON for its reference reader, too.
pub fn config(bytes: &[u8]) {
    let loaded = load(bytes);
    assert_eq!(loaded.checked.is_some(), !config::refuses(&loaded.problems));
    for problem in &loaded.problems {
        if let Some(span) = &problem.span {
            let text = &loaded.sources[problem.file].text;
            assert!(span.start <= span.end && span.end <= text.len().max(1), "{problem:?}");
        }
    }
    let told = config::render(&loaded.problems, &loaded.sources, false);
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
    let Some(checked) = &loaded.checked else { return };
    for chain in &checked.config.chains {
        config::show(checked, &loaded.sources, &chain.name, &|_| None).unwrap();
    }
    let text = &loaded.sources[0].text;
    if let Err(cause) = ron::from_str::<serde::de::IgnoredAny>(text) {
        panic!("accepted, but not by the ron crate: {cause}\n{text}");
    }
    // It travels to the master as JSON.
    let json = serde_json::to_vec(&checked.config).unwrap();
    let read: Config = serde_json::from_slice(&json).unwrap();
    assert_eq!(read, checked.config);
}

/// Every variable has a name that a shell would take and a value that a program can get, each
/// fault has a line, and what was read can be written down and read again.
pub fn env_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (variables, faults) = config::env_file::parse(&text);
    let lines = text.matches('\n').count() + 1;
    // A carriage return ends a line, too, but counts for none.
    assert!(variables.len() + faults.len() <= text.matches(['\n', '\r']).count() + 1);
    let mut written = String::new();
    for (place, (name, value)) in variables.iter().enumerate() {
        let plain = |c: char| c == '_' || c.is_ascii_alphanumeric();
        assert!(name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()));
        assert!(!name.is_empty() && !value.contains('\0'));
        assert!(value.len() <= text.len());
        assert!(!variables[..place].iter().any(|(other, _)| other == name), "{name} twice");
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        written.push_str(&format!("{name}=\"{quoted}\"\n"));
    }
    for (line, fault) in faults {
        assert!((1..=lines).contains(&line), "line {line} of {lines}: {fault}");
    }
    let (again, faults) = config::env_file::parse(&written);
    assert_eq!((again, faults), (variables, Vec::new()), "{written:?}");
}

/// What is printed is a configuration without a mistake of form. The first byte is the kind.
pub fn import(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let (kind, path) = match first {
        b's' => (Some(Kind::Shell), "/home/x/start"),
        b'd' => (Some(Kind::Supervisord), "/etc/supervisord.conf"),
        b'c' => (Some(Kind::Crontab), "/etc/crontab"),
        b'u' => (Some(Kind::Crontab), "/var/spool/cron/x"),
        _ => (None, "file"),
    };
    let Ok(made) = imported(Path::new(path), &text, kind) else { return };
    let Loaded { checked, problems, sources } =
        config::parse(Path::new("made.ron"), &made, &Defaults::of_root());
    let told = config::render(&problems, &sources, false);
    assert!(checked.is_some(), "{told}\n{made}");
}

/// A small configuration with everything that decides about notices.
pub fn sample() -> &'static Config {
    static SAMPLE: OnceLock<Config> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let text = r#"(
            mail: (from: "a@example.org", to: ["b@example.org"], transport: Maildir("/m")),
            defaults: (user: "bin"),
            chains: [
                (name: "one", tasks: [
                    (name: "a", run: ["true"], overdue: "1h"),
                    (name: "b", sh: "x", fail_cooldown: "1s", non_recoverable_downtime: "5m"),
                ]),
                (name: "two", tasks: [(name: "a", sh: "y", to: ["c@example.org"])]),
            ],
        )"#;
        let loaded = load(text.as_bytes());
        let told = config::render(&loaded.problems, &loaded.sources, false);
        loaded.checked.expect(&told).config
    })
}
