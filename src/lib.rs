//! runner-master runs commands again and again for ever, as the right user, and mails the admins
//! exactly when it matters.
//!
//! # The map of the house
//!
//! A folder is a process or a floor. Imports point down only:
//!
//! | folder | what it is | may use |
//! |---|---|---|
//! | `master` | the root process: the loop that spawns, reaps, drains, reconciles | everything below |
//! | `chain` | one process per chain: privileges, the task loop, one run, its output | `worker`, `policy`, `config`, `wire`, `sys`; of `logger` the rotated file |
//! | `logger` | the only process that writes the main log | the same |
//! | `mailer` | spools and delivers mail, then exits | the same |
//! | `checker` | reads and checks a configuration in a child with a deadline | the same |
//! | `client` | what runnerctl does | the same, `checker` to read a configuration, `mailer` to list its spool |
//! | `worker` | a worker's program and the built-in shim, for `chain` and `checker` | `policy`, `config`, `sys` |
//! | `policy` | pure decisions: time comes in as an argument, actions go out | `config`, `wire` |
//! | `config` | a file's text → a checked `Config`, or all its problems | nothing |
//! | `wire` | what processes say to each other | nothing |
//! | `sys` | the only system calls and the only `unsafe` | nothing |
//!
//! The principle: whatever can block or be attacked lives outside the master.

pub mod chain;
pub mod checker;
pub mod cli;
pub mod client;
pub mod config;
pub mod logger;
pub mod mailer;
pub mod master;
pub mod policy;
pub mod sys;
pub mod wire;
pub mod worker;
