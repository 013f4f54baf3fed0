//! Lists of programs by process name, parsed from the command line.

use std::fmt;
use std::str::FromStr;

/// Longest process name that the kernel keeps (TASK_COMM_LEN without the terminator).
const LONGEST: usize = 15;
/// Half of the kernel's map, which excluded and trusted programs share.
const MOST: usize = 128;

/// Names as in /proc/PID/comm: longer ones are cut as the kernel cuts them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Programs(Vec<String>);

impl Programs {
    /// An empty list.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// In the order of the command line.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromStr for Programs {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut names = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name.contains('/') {
                return Err(format!(
                    "`{name}` is not the name of a process, as /proc/PID/comm has it"
                ));
            }
            let mut end = name.len().min(LONGEST);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            names.push(name[..end].to_owned());
        }
        if names.len() > MOST {
            return Err(format!("more than {MOST} programs"));
        }
        Ok(Self(names))
    }
}

impl fmt::Display for Programs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join(","))
    }
}

/// The programs that the user vouches for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trust {
    /// Every program.
    All,
    /// These, and no other.
    Named(Programs),
}

impl Trust {
    /// True if the program of this process name is one of them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(programs) => programs.names().any(|each| each == name),
        }
    }
}

impl FromStr for Trust {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        match list {
            "all" => Ok(Self::All),
            "none" => Ok(Self::Named(Programs::none())),
            names => {
                let programs: Programs = names.parse()?;
                if programs.0.is_empty() || programs.names().any(|name| name == "all" || name == "none") {
                    return Err("give the names of programs, or one of `all` and `none`".to_owned());
                }
                Ok(Self::Named(programs))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_cut_as_the_kernel_does() {
        let programs: Programs = " haproxy, a-very-long-program-name ,".parse().unwrap();
        assert_eq!(programs.to_string(), "haproxy,a-very-long-pro");
        assert_eq!("".parse::<Programs>().unwrap().names().count(), 0);
        assert_eq!("ääääääää".parse::<Programs>().unwrap().to_string(), "äääääää");
    }

    #[test]
    fn all_or_no_programs_are_trusted_or_some_by_name() {
        assert_eq!("all".parse(), Ok(Trust::All));
        assert!(matches!("none".parse(), Ok(Trust::Named(none)) if none.0.is_empty()));
        assert!(matches!("redis-server,nginx".parse(), Ok(Trust::Named(two)) if two.0.len() == 2));
        assert!("".parse::<Trust>().is_err() && "all,none".parse::<Trust>().is_err());
    }

    #[test]
    fn paths_and_endless_lists_are_refused() {
        assert!("/usr/sbin/haproxy".parse::<Programs>().is_err());
        assert!(vec!["x"; MOST + 1].join(",").parse::<Programs>().is_err());
    }
}
