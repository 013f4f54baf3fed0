//! Across network namespaces: what is accelerated, what is never joined, and what connections to elsewhere cost.

#[path = "../common/mod.rs"]
mod common;

mod cgroups;
mod isolation;
mod outside;
mod pairs;
mod proxies;
mod relay;
mod stage;
mod trust;
