//! Lists of ports: parsed from the command line, passed to the kernel as one bit per port.

use std::fmt;
use std::str::FromStr;

/// 64-bit words for one bit per port.
pub const WORDS: usize = 1024;

/// A set of TCP ports.
#[derive(Clone, Eq, PartialEq)]
pub struct PortSet(Box<[u64; WORDS]>);

impl PortSet {
    /// Every port.
    pub fn all() -> Self {
        Self(Box::new([u64::MAX; WORDS]))
    }

    /// The empty set.
    pub fn none() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// One bit per port; port 0 is the lowest bit of the first word.
    pub fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    fn insert(&mut self, port: u16) {
        self.0[usize::from(port) / 64] |= 1 << (port % 64);
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

impl FromStr for PortSet {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut set = Self::none();
        for item in list.split(',').map(str::trim) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            match (port(first), port(last)) {
                (Some(first), Some(last)) if first <= last => {
                    (first..=last).for_each(|port| set.insert(port))
                }
                _ => {
                    return Err(format!(
                        "`{item}` is neither a port from 1 to 65535 nor a range such as 8000-8080"
                    ));
                }
            }
        }
        Ok(set)
    }
}

/// The format that `FromStr` parses, with ranges joined.
impl fmt::Display for PortSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut port = 1_u32;
        while port <= u32::from(u16::MAX) {
            let run = (port..=u32::from(u16::MAX))
                .take_while(|port| self.contains(*port as u16))
                .count() as u32;
            match run {
                0 => {}
                1 => write!(out, "{separator}{port}")?,
                _ => write!(out, "{separator}{port}-{}", port + run - 1)?,
            }
            if run > 0 {
                separator = ",";
            }
            port += run + 1;
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PortSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_are_read_and_shown_joined() {
        let set: PortSet = "80, 443,8000-8002,8003,65535".parse().unwrap();
        assert_eq!(set.to_string(), "80,443,8000-8003,65535");
        assert!(set.contains(8001) && !set.contains(81) && !set.contains(0));
        assert_eq!("1-65535".parse::<PortSet>().unwrap().to_string(), "1-65535");
        assert_eq!(PortSet::none().to_string(), "");
    }

    #[test]
    fn the_bits_are_laid_out_as_the_kernel_side_reads_them() {
        let set: PortSet = "1,64,65535".parse().unwrap();
        assert_eq!(
            (set.words()[0], set.words()[1], set.words()[1023]),
            (2, 1, 1 << 63)
        );
    }

    #[test]
    fn what_is_no_port_is_named() {
        for bad in [
            "", "0", "65536", "80,", "http", "90-80", "80-", "-80", "+80", "1-2-3", "0-5",
        ] {
            let error = bad.parse::<PortSet>().unwrap_err();
            assert!(error.contains("is neither a port"), "{bad}: {error}");
        }
    }
}
