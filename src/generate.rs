//! The hidden command `generate` of each program: manual pages and completions, from the definition of its command line.

#![warn(missing_docs)]

use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Generate;
use crate::model::output::print;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The section for administration commands.
const SECTION: &str = "8";

const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "It did what it was asked for."),
    (
        "1",
        "It failed or refused to start; one line on standard error says why and what to do.",
    ),
    ("2", "The command line makes no sense."),
];

/// What packages ship about a program besides its command line.
pub struct Manual {
    /// The name of the program.
    pub name: &'static str,
    /// Related pages, besides those of its commands.
    pub see_also: &'static [&'static str],
    /// Its own files and their purpose.
    pub files: &'static [(&'static str, &'static str)],
}

impl Manual {
    /// For `sockredir`.
    pub const OF_SOCKREDIR: Self = Self {
        name: "sockredir",
        see_also: &["sockredir-bench"],
        files: &[
            ("/etc/default/sockredir", "The options of the service."),
            (
                "/var/lib/sockredir/programs",
                "What is known of programs, from one start to the next.",
            ),
        ],
    };
}

/// Generates manual pages or completions for this command line. Fails if it cannot write.
pub fn generate(what: &Generate, program: Command, manual: &Manual) -> Result<()> {
    match what {
        Generate::Man { folder } => write_pages(folder, &pages(program, manual, date().as_deref())?),
        Generate::Completions { shell } => print(&completions(*shell, &program, manual.name)).map(|_| ()),
    }
}

/// The day of SOURCE_DATE_EPOCH; without it a page has no date, which keeps builds reproducible.
fn date() -> Option<String> {
    let seconds = env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()?;
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    let mut date = humantime::format_rfc3339_seconds(time).to_string();
    date.truncate("2026-01-31".len());
    Some(date)
}

fn write_pages(folder: &Path, pages: &[(String, Vec<u8>)]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
    for (name, text) in pages {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// Name and text of each page: one for the program and one per command.
fn pages(program: Command, manual: &Manual, date: Option<&str>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut root = shown(&program, manual.name).disable_help_subcommand(true);
    root.build();
    let commands: Vec<Command> = visible(&root).cloned().collect();
    let related = manual.see_also.iter().map(|name| (*name).to_owned());
    let names: Vec<String> = commands.iter().map(page_name).chain(related).collect();

    let mut pages = vec![page(root, manual, date, &names)?];
    for command in commands {
        pages.push(page(command, manual, date, &[manual.name.to_owned()])?);
    }
    Ok(pages)
}

fn page(
    command: Command,
    manual: &Manual,
    date: Option<&str>,
    see_also: &[String],
) -> Result<(String, Vec<u8>)> {
    let name = page_name(&command);
    let file = format!("{name}.{SECTION}");
    let man = Man::new(command)
        .title(name.to_uppercase())
        .section(SECTION)
        .date(date.unwrap_or_default())
        .source(format!("{} {VERSION}", manual.name))
        .manual("System Administration");
    let mut text = Vec::new();
    man.render(&mut text)
        .with_context(|| format!("failed to render {file}"))?;
    let mut text = without_idle_breaks(&String::from_utf8_lossy(&text));
    text.push_str(&closing(manual, see_also).to_roff());
    Ok((file, text.into_bytes()))
}

/// clap_mangen breaks lines next to blank lines too, which mandoc warns about.
fn without_idle_breaks(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_blank = |index: Option<usize>| index.and_then(|index| lines.get(index)) == Some(&"");
    let kept = lines.iter().enumerate().filter(|(index, line)| {
        **line != ".br" || !(is_blank(index.checked_sub(1)) || is_blank(index.checked_add(1)))
    });
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// The sections that the command line definition does not provide.
fn closing(manual: &Manual, see_also: &[String]) -> Roff {
    let mut roff = Roff::new();
    let sections = [("EXIT STATUS", &EXIT_STATUS[..]), ("FILES", manual.files)];
    for (heading, entries) in sections.into_iter().filter(|(_, entries)| !entries.is_empty()) {
        roff.control("SH", [heading]);
        for (term, meaning) in entries {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*meaning)]);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    for (index, name) in see_also.iter().enumerate() {
        let comma = if index + 1 < see_also.len() { "," } else { "" };
        roff.text([bold(name.as_str()), roman(format!("({SECTION}){comma}"))]);
    }
    roff
}

/// As in the manual: program and command, joined by a hyphen.
fn page_name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or(command.get_name()).to_owned()
}

fn visible(root: &Command) -> impl Iterator<Item = &Command> {
    root.get_subcommands().filter(|command| !command.is_hide_set())
}

/// The command line without its hidden parts, which completions and usage would show.
fn shown(program: &Command, name: &'static str) -> Command {
    let mut shown = Command::new(name)
        .version(VERSION)
        .disable_help_subcommand(program.is_disable_help_subcommand_set())
        .args_conflicts_with_subcommands(program.is_args_conflicts_with_subcommands_set())
        .args(program.get_arguments())
        .subcommands(visible(program));
    if let Some(about) = program.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(about) = program.get_long_about() {
        shown = shown.long_about(about.clone());
    }
    shown
}

fn completions(shell: Shell, program: &Command, name: &'static str) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut shown(program, name), name, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn pages_of(date: Option<&str>) -> Vec<(String, Vec<u8>)> {
        pages(Cli::command(), &Manual::OF_SOCKREDIR, date).unwrap()
    }

    fn page_of(name: &str) -> String {
        let pages = pages_of(Some("2026-01-31"));
        let (_, text) = pages.into_iter().find(|(file, _)| file == name).expect(name);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_command_that_is_shown_has_a_page_and_completions() {
        let root = Cli::command();
        let pages = pages_of(None);
        assert_eq!(pages.len(), 1 + visible(&root).count());
        let files: Vec<_> = pages.iter().map(|(file, _)| file.as_str()).collect();
        for command in visible(&root) {
            let name = command.get_name();
            assert!(
                files.contains(&format!("sockredir-{name}.8").as_str()),
                "{name}: {files:?}"
            );
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                assert!(
                    completions(shell, &Cli::command(), "sockredir").contains(name),
                    "{name}: {shell}"
                );
            }
        }
    }

    #[test]
    fn what_is_hidden_is_in_none_of_them() {
        let root = Cli::command();
        for command in root.get_subcommands().filter(|command| command.is_hide_set()) {
            let name = command.get_name();
            assert!(!page_of("sockredir.8").contains(name), "{name}");
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                assert!(
                    !completions(shell, &Cli::command(), "sockredir").contains(name),
                    "{name}: {shell}"
                );
            }
        }
    }

    #[test]
    fn a_page_has_its_version_date_options_and_relations() {
        let page = page_of("sockredir-run.8");
        for part in [
            ".TH SOCKREDIR-RUN 8 2026-01-31",
            VERSION,
            "drain\\-timeout",
            ".SH \"EXIT STATUS\"",
            "\\fBsockredir\\fR(8)",
        ] {
            assert!(page.contains(part), "{part} is not in: {page}");
        }
        assert!(page_of("sockredir.8").contains("\\fBsockredir\\-run\\fR(8),"));
    }
}
