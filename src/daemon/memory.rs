//! Keeps what is known of programs in a file, for the next instance.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::datapath::{Coverage, Datapath};
use crate::model::known::Known;

/// Where a service without a folder of its own has it.
const FOLDER: &str = "/var/lib/sockredir";
const NAME: &str = "programs";

pub struct Memory {
    /// None: it is forgotten.
    path: Option<PathBuf>,
    /// What was last written.
    written: Known,
    /// That it cannot be written was said.
    has_failed: bool,
}

impl Memory {
    /// The file that the user names, or that of the service.
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

    /// Tells the datapath what is in the file. One that cannot be read is as none.
    pub fn recall(&self, datapath: &Datapath<'_>, coverage: &Coverage) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        match Known::read(path) {
            Ok(known) => datapath.remember(&known, coverage),
            // It cannot be written either, which is said then.
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

    /// Writes what the datapath knows, if that has changed. Where that fails the instance goes on without.
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
    // Several are divided by colons.
    let service = env::var_os("STATE_DIRECTORY").filter(|folder| !folder.is_empty());
    let folder = service.map_or_else(
        || {
            // Whoever cannot make it cannot write there either, which is said then.
            let _ = fs::create_dir_all(FOLDER);
            PathBuf::from(FOLDER)
        },
        PathBuf::from,
    );
    folder.join(NAME)
}
