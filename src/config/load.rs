//! A main file and what it includes → a checked configuration, or all problems of all of them.

use std::path::{Path, PathBuf};

use super::chain::{self, DefaultLayers};
use super::fields::Section;
use super::layers::{ChainLayer, TaskLayer};
use super::model::{Chain, Config, UserSpec};
use super::positions::Positions;
use super::problem::{Problem, Problems, Severity, quoted};
use super::reader::{Fields, Reader};
use super::scan::scan;
use super::source::{self, File, Source};
use super::top::{Top, private_accounts, top};
use super::tree::{Kind, Node};

/// The most chains of a configuration.
pub const MOST_CHAINS: usize = 20_000;

/// The most files that a configuration includes.
pub const MOST_FILES: usize = 2_000;

/// What depends on who starts the runner, found by the caller: this floor asks the system nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Whether the runner starts as root.
    pub as_root: bool,
    /// The user id that it starts as.
    pub uid: u32,
    /// That user's name, if it has one.
    pub user: Option<String>,
    /// Where run_root is when the file does not say; `None`: nowhere, and that is refused.
    pub run_root: Option<PathBuf>,
    /// The same for state_root.
    pub state_root: Option<PathBuf>,
}

impl Defaults {
    /// What holds where root starts it.
    pub fn of_root() -> Defaults {
        Defaults {
            as_root: true,
            uid: 0,
            user: Some("root".to_owned()),
            run_root: Some(PathBuf::from("/run/runner")),
            state_root: Some(PathBuf::from("/var/lib/runner")),
        }
    }

    /// Whether who starts the runner could become `user`.
    pub(crate) fn may_be(&self, user: &UserSpec) -> bool {
        self.as_root
            || match user {
                UserSpec::Current => true,
                UserSpec::Name(name) => self.user.as_deref() == Some(name),
                UserSpec::Id(id) => self.uid == *id,
            }
    }
}

/// What the caller shall read.
#[derive(Debug, Clone, Copy)]
pub enum Want<'w> {
    /// The main file: one file or an error.
    Main(&'w Path),
    /// Every file that a pattern of `include` names, sorted by name. `pattern` is absolute; only
    /// its last part may hold `*` and `?`. Without them the file must exist.
    Include(&'w Path),
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// "cannot VERB OBJECT: CAUSE".
    pub message: String,
    /// The command that mends it, where one does.
    pub help: Option<String>,
}

/// A checked configuration with where everything was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What it means.
    pub config: Config,
    /// Where it was said.
    pub positions: Positions,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration; `None` if there is any error among the problems.
    pub checked: Option<Checked>,
    /// Everything that is wrong, in the order of the files, warnings among it.
    pub problems: Vec<Problem>,
    /// The files that were read; `Problem::file` and `Place::file` count in them.
    pub sources: Vec<Source>,
}

/// Reads one text alone, as the file `path`; `include` finds nothing. For tests and tools.
pub fn parse(path: &Path, text: &str, who: &Defaults) -> Loaded {
    load(path, who, &mut |want| match want {
        Want::Main(path) => Ok(vec![File {
            name: path.to_owned(),
            path: path.to_owned(),
            bytes: text.as_bytes().to_vec(),
        }]),
        Want::Include(_) => Ok(Vec::new()),
    })
}

/// Reads a configuration: the main file, then what it includes. `read` is asked once for each.
pub fn load(
    main: &Path,
    who: &Defaults,
    read: &mut dyn FnMut(Want<'_>) -> Result<Vec<File>, Unreadable>,
) -> Loaded {
    let mut loader = Loader {
        who,
        read,
        problems: Problems::default(),
        sources: Vec::new(),
        positions: Positions::default(),
        chains: Vec::new(),
    };
    let config = loader.main(main);
    let Loader { problems, positions, sources, .. } = loader;
    let checked = match config {
        Some(config) if !problems.any_error() => Some(Checked { config, positions }),
        _ => None,
    };
    Loaded { checked, problems: problems.into_sorted(), sources }
}

struct Loader<'a> {
    who: &'a Defaults,
    read: &'a mut dyn FnMut(Want<'_>) -> Result<Vec<File>, Unreadable>,
    problems: Problems,
    sources: Vec<Source>,
    positions: Positions,
    chains: Vec<Chain>,
}

impl Loader<'_> {
    fn main(&mut self, main: &Path) -> Option<Config> {
        let file = match (self.read)(Want::Main(main)) {
            Ok(mut files) if !files.is_empty() => files.remove(0),
            Ok(_) => {
                return self.unreadable(main, "cannot read the configuration".to_owned(), None);
            }
            Err(error) => return self.unreadable(main, error.message, error.help),
        };
        let path = file.path.clone();
        let node = self.tree(file)?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let mut reader = Reader { file: 0, folder: &folder, problems: &mut self.problems };
        let fields = reader.fields("the configuration", &node, Section::File)?;
        let who = self.who;
        let top = top(&mut reader, &node, &fields, who, &mut self.positions);
        let kill_concurrent = reader.take(&fields, "kill_concurrent", Reader::bool).unwrap_or(true);
        let control_group = reader.take(&fields, "control_group", Reader::group);
        if let Some(entry) = fields.get("control_group") {
            let place = reader.place(&entry.value.span);
            self.positions.top.insert("control_group".to_owned(), place);
        }
        self.chains_of(0, &folder, &fields);
        self.includes(&folder, &fields);
        if self.chains.is_empty() && !self.problems.any_error() {
            let help = "chains: [ ( user: …, tasks: [ ( name: \"…\", run: [\"program\"] ) ] ) ]";
            let problem = Problem::warning(0, 0..1, "there is no chain: nothing will run");
            self.problems.push(problem.help(help));
        }
        private_accounts(
            self.who,
            top.mail.as_ref(),
            &top.log,
            &self.chains,
            &self.positions,
            &mut self.problems,
        );
        let chains = std::mem::take(&mut self.chains);
        let Top { run_root, state_root, mail, log } = top;
        Some(Config {
            file: path,
            run_root,
            state_root,
            kill_concurrent,
            control_group,
            mail,
            log,
            chains,
        })
    }

    fn unreadable<T>(&mut self, main: &Path, message: String, help: Option<String>) -> Option<T> {
        self.sources.push(Source {
            name: main.to_owned(),
            path: main.to_owned(),
            text: String::new(),
        });
        self.problems.push(Problem::of_file(0, message).maybe_help(help));
        None
    }

    /// The next file's tree; its source is kept for messages.
    fn tree(&mut self, file: File) -> Option<Node> {
        let index = self.sources.len();
        let (source, readable) = source::decode(file, index, &mut self.problems);
        let node = if readable { scan(&source.text, index, &mut self.problems) } else { None };
        self.sources.push(source);
        node
    }

    fn includes(&mut self, folder: &Path, fields: &Fields<'_>) {
        let Some(entry) = fields.get("include") else { return };
        let mut reader = Reader { file: 0, folder, problems: &mut self.problems };
        let patterns = reader.list("include", &entry.value, |reader, name, node| {
            let path = reader.path(name, node)?;
            let wild = |text: &std::ffi::OsStr| text.to_string_lossy().contains(['*', '?', '[']);
            if path.parent().is_some_and(|parent| wild(parent.as_os_str())) {
                let help = Some("as in \"conf.d/*.ron\"".to_owned());
                reader.error(&node.span, "only the last part of a path may hold `*` and `?`", help);
                return None;
            }
            Some((path, node.span.clone()))
        });
        for (pattern, span) in patterns.unwrap_or_default() {
            let files = match (self.read)(Want::Include(&pattern)) {
                Ok(files) => files,
                Err(error) => {
                    let problem = Problem::error(0, span, error.message).maybe_help(error.help);
                    self.problems.push(problem);
                    continue;
                }
            };
            for file in files {
                if self.sources.iter().any(|source| source.path == file.path) {
                    let message =
                        format!("{} is read twice", quoted(&file.path.display().to_string()));
                    self.problems.push(Problem::error(0, span.clone(), message));
                    continue;
                }
                if self.sources.len() > MOST_FILES {
                    let message = format!("more than {MOST_FILES} files are included");
                    self.problems.push(Problem::error(0, span.clone(), message));
                    return;
                }
                self.included(file);
            }
        }
    }

    fn included(&mut self, file: File) {
        let index = self.sources.len();
        let folder = file.path.parent().unwrap_or(Path::new("/")).to_owned();
        let Some(node) = self.tree(file) else { return };
        let mut reader = Reader { file: index, folder: &folder, problems: &mut self.problems };
        if let Some(fields) = reader.fields("an included file", &node, Section::Included) {
            self.chains_of(index, &folder, &fields);
        }
    }

    /// The chains of one file, with that file's defaults.
    fn chains_of(&mut self, file: usize, folder: &Path, fields: &Fields<'_>) {
        let mut reader = Reader { file, folder, problems: &mut self.problems };
        let mut outer = DefaultLayers::default();
        if let Some(entry) = fields.get("defaults").filter(|entry| entry.value.kind != Kind::None)
            && let Some(said) = reader.fields("defaults", &entry.value, Section::Defaults)
        {
            outer.has_user = chain::says(&said, "user");
            outer.chain = ChainLayer::read(&mut reader, &said);
            outer.task = TaskLayer::read(&mut reader, &said);
        }
        let Some(entry) = fields.get("chains").filter(|entry| entry.value.kind != Kind::None)
        else {
            return;
        };
        let nodes = match &entry.value.kind {
            Kind::List(nodes) => nodes,
            _ => {
                let help = Some("chains: [ ( … ), ( … ) ]".to_owned());
                return reader.wrong("chains", &entry.value, "a list `[…]`", help);
            }
        };
        for node in nodes {
            let mut reader = Reader { file, folder, problems: &mut self.problems };
            let Some((chain, places)) = chain::read(&mut reader, node, &outer, self.who) else {
                continue;
            };
            if self.chains.len() >= MOST_CHAINS {
                let message = format!("there are more than {MOST_CHAINS} chains");
                return reader.error(&(node.span.start..node.span.start + 1), message, None);
            }
            let here = places.fields.get("name").unwrap_or(&places.chain).clone();
            if let Some(first) = self.positions.chains.get(&chain.name) {
                let first = first.fields.get("name").unwrap_or(&first.chain).clone();
                let message = format!("two chains have the name {}", quoted(&chain.name));
                let problem = Problem::error(here.file, here.span, message)
                    .label("again here")
                    .also(first, "first here")
                    .help("give each a `name` of its own");
                self.problems.push(problem);
                continue;
            }
            self.positions.chains.insert(chain.name.clone(), places);
            self.chains.push(chain);
        }
    }
}

/// Whether any of the problems refuses the configuration.
pub fn refuses(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}
