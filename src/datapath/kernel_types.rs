//! The type information of the running kernel.

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Func, Struct, Typedef};

use crate::model::finding::Finding;

pub struct KernelTypes(Btf<'static>);

impl KernelTypes {
    /// Fails if the kernel was built without it.
    pub fn read() -> Result<Self, Finding> {
        Btf::from_vmlinux().map(Self).map_err(|error| {
            Finding::new(
                format!("failed to read the kernel's type information: {error}"),
                "use a kernel built with CONFIG_DEBUG_INFO_BTF",
            )
        })
    }

    /// Looks into a structure.
    pub fn has_member(&self, owner: &str, member: &str) -> bool {
        self.0.type_by_name::<Struct<'_>>(owner).is_some_and(|owner| {
            owner
                .iter()
                .any(|each| each.name.is_some_and(|name| name == member))
        })
    }

    /// True if BPF programs may call this function.
    pub fn has_function(&self, name: &str) -> bool {
        self.0.type_by_name::<Func<'_>>(name).is_some()
    }

    /// True if BPF programs can be attached to this tracepoint.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        let name = format!("btf_trace_{name}");
        self.0.type_by_name::<Typedef<'_>>(&name).is_some()
    }
}
