//! The file that carries what is known about programs from one instance to the next.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use crate::model::known::{File, Image, Known, Nature, Program};

/// The first line. A file of another version is not read.
const HEADER: &str = "sockredir programs 2";
/// A larger file is none of ours.
const MOST_BYTES: u64 = 16 << 20;

impl Known {
    /// Reads a file; empty if there is none.
    pub fn read(path: &Path) -> io::Result<Self> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            metadata => metadata?,
        };
        // Opening a FIFO would block until there is a writer.
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        if metadata.len() > MOST_BYTES {
            return Err(io::Error::other("it is too large"));
        }
        let file = fs::File::open(path)?.take(MOST_BYTES);
        io::read_to_string(file)?.parse().map_err(io::Error::other)
    }

    /// Replaces the file atomically.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(self.to_text().as_bytes())?;
                file.sync_data()
            })
            .and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// One line per program and per file.
    fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for program in &self.programs {
            let File {
                device,
                inode,
                changed,
            } = program.file;
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "program {device} {inode} {changed} {:x} {}{} {} {}{} {} {}",
                program.arguments,
                if program.splices { 's' } else { '-' },
                if program.receives { 'r' } else { '-' },
                program.reads,
                program.accepts.letter(),
                program.connects.letter(),
                ports_text(&program.ports),
                program.name.replace(|c: char| c.is_control(), "?"),
            );
        }
        for (file, image) in &self.images {
            let says = match image {
                Image::WithoutSplice => "without-splice",
                Image::WithSplice => "with-splice",
            };
            let _ = writeln!(
                text,
                "image {} {} {} {says}",
                file.device, file.inode, file.changed
            );
        }
        text
    }
}

impl Nature {
    fn letter(self) -> char {
        match self {
            Self::Unknown => '-',
            Self::Nonblocking => 'n',
            Self::Blocking => 'b',
        }
    }

    fn of_letter(letter: char) -> Option<Self> {
        [Self::Unknown, Self::Nonblocking, Self::Blocking]
            .into_iter()
            .find(|nature| nature.letter() == letter)
    }
}

impl FromStr for Known {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(format!("its first line is not `{HEADER}`"));
        }
        let mut known = Self::default();
        for (number, line) in lines.enumerate() {
            let is_read = match line.split_once(' ') {
                Some(("program", rest)) => program(rest).map(|program| known.programs.push(program)),
                Some(("image", rest)) => image(rest).map(|image| known.images.push(image)),
                _ => None,
            };
            // A line that cannot be parsed may have kept a program off.
            is_read.ok_or_else(|| format!("line {} is not understood", number + 2))?;
        }
        Ok(known)
    }
}

fn file<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<File> {
    Some(File {
        device: words.next()?.parse().ok()?,
        inode: words.next()?.parse().ok()?,
        changed: words.next()?.parse().ok()?,
    })
}

fn ports_text(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "-".to_owned();
    }
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

fn ports(text: &str) -> Option<Vec<u16>> {
    match text {
        "-" => Some(Vec::new()),
        _ => text.split(',').map(|port| port.parse().ok()).collect(),
    }
}

fn program(rest: &str) -> Option<Program> {
    let mut words = rest.splitn(9, ' ');
    let file = file(&mut words)?;
    let arguments = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut does = words.next()?.chars();
    let (splices, receives) = (does.next()?, does.next()?);
    let reads = words.next()?.parse().ok()?;
    let mut natures = words.next()?.chars();
    let mut nature = || natures.next().and_then(Nature::of_letter);
    Some(Program {
        file,
        arguments,
        splices: splices == 's',
        receives: receives == 'r',
        reads,
        accepts: nature()?,
        connects: nature()?,
        ports: ports(words.next()?)?,
        name: words.next().unwrap_or_default().to_owned(),
    })
}

fn image(rest: &str) -> Option<(File, Image)> {
    let mut words = rest.split(' ');
    let file = file(&mut words)?;
    let image = match words.next()? {
        "without-splice" => Image::WithoutSplice,
        "with-splice" => Image::WithSplice,
        _ => return None,
    };
    words.next().is_none().then_some((file, image))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> File {
        File {
            device: 7,
            inode,
            changed: u64::MAX,
        }
    }

    fn known() -> Known {
        Known {
            programs: vec![
                Program {
                    file: file(1),
                    arguments: 0xab,
                    name: "two words".to_owned(),
                    splices: true,
                    receives: false,
                    reads: 3,
                    accepts: Nature::Blocking,
                    ports: Vec::new(),
                    connects: Nature::Unknown,
                },
                Program {
                    file: file(2),
                    arguments: 0,
                    name: String::new(),
                    splices: false,
                    receives: true,
                    reads: 0,
                    accepts: Nature::Nonblocking,
                    ports: vec![80, 443],
                    connects: Nature::Nonblocking,
                },
            ],
            images: vec![(file(3), Image::WithoutSplice), (file(4), Image::WithSplice)],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(known().to_text().parse(), Ok(known()));
    }

    #[test]
    fn a_name_cannot_make_a_line_of_its_own() {
        let mut known = known();
        known.programs[0].name = "a\nimage 1 2 3 without-splice".to_owned();
        assert_eq!(known.to_text().parse::<Known>().unwrap().images.len(), 2);
    }

    #[test]
    fn what_is_not_understood_is_not_believed() {
        for text in ["", "sockredir programs 3\n"] {
            assert!(text.parse::<Known>().is_err(), "{text}");
        }
        let text = known().to_text();
        for line in 1..text.lines().count() {
            let cut: Vec<_> = text
                .lines()
                .enumerate()
                .map(|(number, text)| if number == line { &text[..9] } else { text })
                .collect();
            assert!(cut.join("\n").parse::<Known>().is_err(), "line {line}");
        }
    }

    #[test]
    fn a_file_that_is_missing_holds_nothing_and_one_that_is_written_replaces_it() {
        let path = std::env::temp_dir().join(format!("sockredir-known-{}", std::process::id()));
        assert_eq!(Known::read(&path).unwrap(), Known::default());
        known().write(&path).unwrap();
        assert_eq!(Known::read(&path).unwrap(), known());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        assert!(Known::read(Path::new("/dev/zero")).is_err());
        assert!(Known::read(Path::new("/")).is_err());
    }

    #[test]
    fn what_keeps_a_program_off_is_not_harmless() {
        let harmless: Vec<_> = known().programs.iter().map(Program::is_harmless).collect();
        assert_eq!(harmless, [false, true]);
    }
}
