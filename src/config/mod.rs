//! A file's text becomes a checked [`Config`](model::Config), or the list of all its problems.
//!
//! Nothing here opens a file: texts come in, a configuration or its problems go out, each problem
//! with its exact place. The way of a file: bytes → text (`source`) → a tree of values with their
//! places (`scan`, `tokens`, `space`, `tree`) → typed layers (`reader`, `values`, `layers`) → chains (`chain`) and
//! sections (`sections`), put together by `load`. The table of all fields is in `fields`.

mod chain;
pub mod env_file;
mod fields;
mod layers;
mod load;
pub mod model;
mod positions;
mod problem;
mod reader;
mod render;
mod scan;
mod sections;
mod show;
mod source;
mod space;
mod tokens;
mod tree;
mod units;
mod values;

pub use fields::{FIELDS, Field, Section};
pub use load::{
    Checked, Defaults, Loaded, MOST_CHAINS, MOST_FILES, Unreadable, Want, load, parse, refuses,
};
pub use positions::{ChainPlaces, Positions};
pub use problem::{Place, Problem, Severity, Span};
pub use render::{locate, render};
pub use show::show;
pub use source::{File, MAX_FILE, Source};
pub use units::{RLIMITS, signal_name};
