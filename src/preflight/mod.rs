//! What must hold before anything is accelerated: privileges of this process, and features and behaviour of this kernel.

#![warn(missing_docs)]

mod checks;
mod connection;
mod doctor;
mod privilege;
mod requirements;
mod selftest;

use crate::datapath::{Datapath, Options, Storage};
use crate::model::finding::Finding;

pub use checks::{Check, CheckResult, Outcome, Report, Single, check_all};
pub use doctor::doctor;
pub use privilege::check as check_privileges;
pub(crate) use requirements::check_scans;

/// Calls [`Datapath::load`] and adds a remedy if it fails.
pub fn load<'a>(options: &Options, storage: &'a mut Storage) -> Result<Datapath<'a>, Finding> {
    Datapath::load(options, storage)
        .map_err(|error| Finding::new(format!("{error:#}"), requirements::load_remedy()))
}
