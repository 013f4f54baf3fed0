//! The datapath's knowledge of programs: read to be saved, and restored.

use anyhow::{Context as _, Result};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use plain::Plain;

use super::{Coverage, Datapath, SpliceWatch, record, types};
use crate::model::known::{File, Image, Known, Nature, Program};
use crate::model::programs::{Programs, Trust};

// SAFETY: the types consist of integers and of such types, without padding, so every bit pattern is valid.
unsafe impl Plain for types::program_key {}
unsafe impl Plain for types::program {}
unsafe impl Plain for types::file_key {}

/// A process name as the kernel stores it, zero-padded (`struct name`).
pub(super) type Name = [u8; size_of::<types::name>()];

/// Above this share of the map, in quarters, entries that only speed things up are dropped.
const CROWDED: usize = 3;

/// Takes what is found out about files; for use in another thread.
pub struct Images(MapHandle);

impl Images {
    pub fn note(&self, file: File, image: Image) -> Result<()> {
        let value = match image {
            Image::WithoutSplice => types::image::IMAGE_WITHOUT_SPLICE,
            Image::WithSplice => types::image::IMAGE_WITH_SPLICE,
        };
        self.0
            .update(bytes_of(&file_key(file)), &value.0.to_ne_bytes(), MapFlags::ANY)
            .context("failed to note what a program's file says")
    }
}

impl Datapath<'_> {
    pub(crate) fn images(&self) -> Result<Images> {
        MapHandle::try_from(&self.skel.maps.sockredir_image)
            .map(Images)
            .context("failed to find the map of files")
    }

    /// All programs and files.
    pub(crate) fn known(&self) -> Result<Known> {
        let maps = &self.skel.maps;
        let mut known = Known::default();
        for key in maps.sockredir_prog.keys() {
            let value = maps
                .sockredir_prog
                .lookup(&key, MapFlags::ANY)
                .context("failed to read the programs")?;
            if let (Some(key), Some(value)) = (record(&key), value.and_then(|value| record(&value))) {
                known.programs.push(program_of(&key, &value));
            }
        }
        for key in maps.sockredir_image.keys() {
            let value = maps
                .sockredir_image
                .lookup(&key, MapFlags::ANY)
                .context("failed to read the files of programs")?;
            let without = types::image::IMAGE_WITHOUT_SPLICE.0.to_ne_bytes();
            if let (Some(key), Some(value)) = (record(&key), value) {
                let image = if value == without {
                    Image::WithoutSplice
                } else {
                    Image::WithSplice
                };
                known.images.push((file_of(&key), image));
            }
        }
        Ok(known)
    }

    /// Restores earlier knowledge, before anything is attached with this coverage. What does not fit is learnt again.
    pub(crate) fn remember(&self, known: &Known, coverage: &Coverage) -> Result<()> {
        let maps = &self.skel.maps;
        for program in &known.programs {
            let key = types::program_key {
                file: file_key(program.file),
                arguments: program.arguments,
            };
            let mut value = types::program {
                splices: program.splices.into(),
                receives: program.receives.into(),
                trusted: u32::from(coverage.trusted.has(&program.name)),
                reads: program.reads,
                accepts: nature(program.accepts),
                connects: nature(program.connects),
                ..types::program::default()
            };
            for (to, from) in value.ports.iter_mut().zip(&program.ports) {
                *to = *from;
                value.ports_end += 1;
            }
            for (to, from) in value.name.iter_mut().zip(name_of(&program.name)) {
                *to = from as i8;
            }
            // An entry that the datapath has made meanwhile, perhaps for a splice, stays as it is.
            let _ = maps
                .sockredir_prog
                .update(bytes_of(&key), bytes_of(&value), MapFlags::NO_EXIST);
        }
        let images = self.images()?;
        for (file, image) in &known.images {
            let _ = images.note(*file, *image);
        }
        Ok(())
    }

    /// Makes room when the map is nearly full. What keeps a program off stays for good.
    pub(crate) fn forget_harmless(&self, known: &Known) -> Result<()> {
        let map = &self.skel.maps.sockredir_prog;
        if known.programs.len() * 4 < map.max_entries() as usize * CROWDED {
            return Ok(());
        }
        for program in known.programs.iter().filter(|program| program.is_harmless()) {
            let key = types::program_key {
                file: file_key(program.file),
                arguments: program.arguments,
            };
            map.delete(bytes_of(&key))
                .context("failed to make room for programs")?;
        }
        Ok(())
    }

    /// Writes the user's choice of programs, and replaces that of the self-test.
    pub(super) fn listen_to(&mut self, coverage: &Coverage) -> Result<()> {
        let said = &self.skel.maps.sockredir_said;
        let trusted = match &coverage.trusted {
            Trust::All => &Programs::none(),
            Trust::Named(programs) => programs,
        };
        let lists = [
            (&coverage.exclude_programs, types::said::SAID_EXCLUDED),
            (trusted, types::said::SAID_TRUSTED),
        ];
        for (programs, what) in lists {
            for name in programs.names() {
                said.update(&name_of(name), &what.0.to_ne_bytes(), MapFlags::NO_EXIST)
                    .or_else(|error| match error.kind() {
                        // Exclusion wins.
                        libbpf_rs::ErrorKind::AlreadyExists => Ok(()),
                        _ => Err(error),
                    })
                    .with_context(|| format!("failed to note the program {name}"))?;
            }
        }
        let bss = self.skel.maps.bss_data.as_deref_mut();
        let bss = bss.context("the datapath's object has no variables")?;
        bss.trust_all = u32::from(coverage.trusted == Trust::All);
        bss.splice_works = u32::from(self.splice_watch == SpliceWatch::Works);
        Ok(())
    }
}

fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a `Plain` type has no padding, and the bytes live as long as the value.
    unsafe { plain::as_bytes(value) }
}

fn name_of(name: &str) -> Name {
    let mut bytes = Name::default();
    let length = name.len().min(bytes.len() - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

fn file_key(file: File) -> types::file_key {
    types::file_key {
        inode: file.inode,
        changed: file.changed,
        device: file.device,
        pad: 0,
    }
}

pub(super) fn file_of(key: &types::file_key) -> File {
    File {
        inode: key.inode,
        changed: key.changed,
        device: key.device,
    }
}

fn nature(nature: Nature) -> types::nature {
    match nature {
        Nature::Unknown => types::nature::NATURE_UNKNOWN,
        Nature::Nonblocking => types::nature::NATURE_NONBLOCKING,
        Nature::Blocking => types::nature::NATURE_BLOCKING,
    }
}

fn nature_of(nature: types::nature) -> Nature {
    match nature {
        types::nature::NATURE_NONBLOCKING => Nature::Nonblocking,
        types::nature::NATURE_BLOCKING => Nature::Blocking,
        _ => Nature::Unknown,
    }
}

fn program_of(key: &types::program_key, value: &types::program) -> Program {
    Program {
        file: file_of(&key.file),
        arguments: key.arguments,
        name: super::sockets::text(&value.name),
        splices: value.splices != 0,
        receives: value.receives != 0,
        reads: value.reads,
        accepts: nature_of(value.accepts),
        ports: value.ports.into_iter().filter(|port| *port != 0).collect(),
        connects: nature_of(value.connects),
    }
}
