//! Keeps what is known about programs in a file, for the next instance.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::datapath::{Coverage, Datapath};
use crate::model::known::Known;

/// The state folder if the service manager provides none.
const FOLDER: &str = "/var/lib/sockredir";
const NAME: &str = "programs";

pub struct Memory {
    /// `None`: nothing is kept.
    path: Option<PathBuf>,
    /// What was written last.
    written: Known,
    /// A failed write has been reported.
    has_failed: bool,
}

impl Memory {
    /// Uses the file that the user names, or the default one.
    pub fn open(named: Option<&Path>) -> Self {
        let path = match named {
            Some(path) => (path != Path::new("none")).then(|| path.to_owned()),
            None => Some(default_path()),
        };
        Self {
            path,
            written: Known::default(),
            has_failed: false,
        }
    }

    /// Loads the file into the datapath. An unreadable file counts as empty.
    pub fn recall(&self, datapath: &Datapath<'_>, coverage: &Coverage) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        match Known::read(path) {
            Ok(known) => datapath.remember(&known, coverage),
            // The file cannot be written either, which is reported then.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            Err(error) => {
                eprintln!(
                    "sockredir: note: {} cannot be read: {error}: programs are watched anew, and the file is written anew",
                    path.display()
                );
                Ok(())
            }
        }
    }

    /// Writes what the datapath knows if it has changed. A failed write is not fatal.
    pub fn keep(&mut self, datapath: &Datapath<'_>) -> Result<()> {
        let known = datapath.known()?;
        datapath.forget_harmless(&known)?;
        let Some(path) = &self.path else {
            return Ok(());
        };
        if known == self.written {
            return Ok(());
        }
        match known.write(path) {
            Ok(()) => {
                self.written = known;
                self.has_failed = false;
            }
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                eprintln!(
                    "sockredir: note: {} cannot be written: {error}: the next instance watches programs anew",
                    path.display()
                );
            }
            Err(_) => {}
        }
        Ok(())
    }
}

fn default_path() -> PathBuf {
    // Several are separated by colons.
    let service = env::var_os("STATE_DIRECTORY").filter(|folder| !folder.is_empty());
    let folder = service.map_or_else(
        || {
            // If this fails, so will the write, which is reported.
            let _ = fs::create_dir_all(FOLDER);
            PathBuf::from(FOLDER)
        },
        PathBuf::from,
    );
    folder.join(NAME)
}
