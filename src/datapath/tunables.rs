//! The datapath's tunables by name: numeric constants in its source, listed by its type information.

use std::mem::MaybeUninit;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use libbpf_rs::AsRawLibbpf as _;
use libbpf_rs::btf::types::{DataSec, Var, VarSecInfo};
use libbpf_rs::btf::{Btf, BtfType};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};

use super::skeleton::{OpenSockredirSkel, SockredirSkelBuilder};

/// The size of a tunable. Switches are smaller.
const SIZE: usize = size_of::<u32>();
/// A constant that `Datapath::load` sets per architecture.
const OF_THE_MACHINE: &str = "splice_call";

/// An existing tunable and its value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tunable {
    /// The name of the constant in the source.
    pub name: String,
    /// A 32-bit number; some tunables are signed.
    pub value: u32,
}

impl FromStr for Tunable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = names().map_err(|error| format!("{error:#}"))?;
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("write NAME=VALUE; the names are {}", known.join(", ")))?;
        if !known.iter().any(|each| each == name) {
            return Err(format!(
                "there is no tunable `{name}`; the names are {}",
                known.join(", ")
            ));
        }
        let value = value
            .parse()
            .map_err(|_| format!("the value of {name} is a number from 0 to {}", u32::MAX))?;
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }
}

/// The position of a tunable in the object's constants.
struct Slot {
    name: String,
    offset: usize,
}

fn names() -> Result<Vec<String>> {
    let mut storage = MaybeUninit::uninit();
    let open = SockredirSkelBuilder::default()
        .open(&mut storage)
        .context("failed to open the datapath's object")?;
    Ok(slots(&open)?.into_iter().map(|slot| slot.name).collect())
}

/// Sets tunables of an object that is not loaded yet.
pub fn set(open: &mut OpenSockredirSkel<'_>, tunables: &[Tunable]) -> Result<()> {
    let slots = slots(open)?;
    for Tunable { name, value } in tunables {
        let slot = slots.iter().find(|slot| slot.name == *name);
        let constants = open.maps.rodata.initial_value_mut();
        slot.zip(constants)
            .and_then(|(slot, constants)| constants.get_mut(slot.offset..slot.offset + SIZE))
            .with_context(|| format!("the datapath's object has no tunable {name}"))?
            .copy_from_slice(&value.to_ne_bytes());
    }
    Ok(())
}

fn slots(open: &OpenSockredirSkel<'_>) -> Result<Vec<Slot>> {
    let object = open.open_object().as_libbpf_object();
    // SAFETY: the pointer comes from an open object, which outlives the reference.
    let btf = Btf::from_bpf_object(unsafe { object.as_ref() })?
        .context("the datapath's object has no type information")?;
    let constants: DataSec<'_> = btf
        .type_by_name(".rodata")
        .context("the datapath's object has no constants")?;
    let slot = |constant: VarSecInfo| {
        let variable: BtfType<'_> = btf.type_by_id(constant.ty)?;
        let name = Var::try_from(variable).ok()?.name()?.to_str()?.to_owned();
        (constant.size == SIZE && name != OF_THE_MACHINE).then_some(Slot {
            name,
            offset: constant.offset as usize,
        })
    };
    Ok(constants.iter().filter_map(slot).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunables_are_known_by_name() {
        let tunable: Tunable = "bulk_bytes=16384".parse().unwrap();
        assert_eq!((tunable.name.as_str(), tunable.value), ("bulk_bytes", 16384));
        for text in [
            "bulk_bytes",
            "bulk_bytes=",
            "bulk_bytes=-1",
            "speed=1",
            "splice_call=1",
            "admit_any=1",
        ] {
            assert!(!text.parse::<Tunable>().unwrap_err().contains('\n'), "{text}");
        }
        let error = "speed=1".parse::<Tunable>().unwrap_err();
        assert!(
            error.contains("observe_messages, ") && error.contains("one_way_drain"),
            "{error}"
        );
    }

    #[test]
    fn a_tunable_is_set_in_its_place() {
        let mut storage = MaybeUninit::uninit();
        let mut open = SockredirSkelBuilder::default().open(&mut storage).unwrap();
        let before = open.maps.rodata_data.as_ref().unwrap().gain_messages;
        set(&mut open, &["queue_bytes=4321".parse().unwrap()]).unwrap();
        let constants = open.maps.rodata_data.as_ref().unwrap();
        assert_eq!(constants.queue_bytes, 4321);
        assert_eq!(constants.gain_messages, before);
    }
}
