//! The figures of a run, by name: members of the JSON and columns of the CSV.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::cases::Workload;
use super::statistics::median;
use super::worker::{ClientReport, ServerReport};

/// In the order of the CSV's columns.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Figure {
    /// Round trips, connections, or messages of a stream.
    OperationsPerSecond,
    /// Payload in both directions.
    BytesPerSecond,
    /// Latency of an operation.
    P50Us,
    P99Us,
    P999Us,
    /// User and system time of client and server.
    CpuUsPerOperation,
    CpuNsPerByte,
    /// Per connection with a stopped reader: bytes the kernel accepted, and the memory they cost.
    AcceptedBytes,
    KernelBytes,
    /// Bytes on the loopback interface per byte of payload, including headers.
    LoopbackBytesPerByte,
    /// The share of the payload that was redirected, by the datapath's counters.
    Redirected,
}

impl Figure {
    pub const ALL: [Self; 11] = [
        Self::OperationsPerSecond,
        Self::BytesPerSecond,
        Self::P50Us,
        Self::P99Us,
        Self::P999Us,
        Self::CpuUsPerOperation,
        Self::CpuNsPerByte,
        Self::AcceptedBytes,
        Self::KernelBytes,
        Self::LoopbackBytesPerByte,
        Self::Redirected,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::OperationsPerSecond => "operations_per_second",
            Self::BytesPerSecond => "bytes_per_second",
            Self::P50Us => "p50_us",
            Self::P99Us => "p99_us",
            Self::P999Us => "p999_us",
            Self::CpuUsPerOperation => "cpu_us_per_operation",
            Self::CpuNsPerByte => "cpu_ns_per_byte",
            Self::AcceptedBytes => "accepted_bytes",
            Self::KernelBytes => "kernel_bytes",
            Self::LoopbackBytesPerByte => "loopback_bytes_per_byte",
            Self::Redirected => "redirected",
        }
    }

    /// The figure that a row is judged by.
    pub fn of(workload: Workload) -> Self {
        match workload {
            Workload::RequestResponse | Workload::Short { .. } => Self::OperationsPerSecond,
            Workload::Stream => Self::BytesPerSecond,
            Workload::Stopped => Self::KernelBytes,
        }
    }

    /// The figure for CPU time.
    pub fn of_cpu(workload: Workload) -> Self {
        match workload {
            Workload::Stream => Self::CpuNsPerByte,
            _ => Self::CpuUsPerOperation,
        }
    }

    fn is_better_higher(self) -> bool {
        matches!(
            self,
            Self::OperationsPerSecond | Self::BytesPerSecond | Self::AcceptedBytes | Self::Redirected
        )
    }

    /// How many times better this one is than the other.
    pub fn ratio(self, this: &Figures, other: &Figures) -> Option<f64> {
        let (this, other) = (this.get(self)?, other.get(self)?);
        let ratio = if self.is_better_higher() {
            this / other
        } else {
            other / this
        };
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures(BTreeMap<Figure, f64>);

impl Figures {
    /// The figures of one run. The redirected bytes are not always known.
    pub fn of(
        workload: Workload,
        client: &ClientReport,
        server: &ServerReport,
        redirected: Option<u64>,
    ) -> Self {
        let mut figures = Self::default();
        let mut put = |figure, value: f64| {
            if value.is_finite() {
                figures.0.insert(figure, value);
            }
        };
        let operations = client.operations as f64;
        if client.operations > 0 {
            put(Figure::OperationsPerSecond, operations / client.seconds);
            put(Figure::BytesPerSecond, client.bytes as f64 / client.seconds);
            // The windows of the two do not end with the same operation.
            let served = server.messages as f64 / workload.messages_each();
            let cpu = client.cpu_seconds / operations + server.cpu_seconds / served;
            put(Figure::CpuUsPerOperation, cpu * 1e6);
            put(
                Figure::CpuNsPerByte,
                cpu * 1e9 / (client.bytes as f64 / operations),
            );
        }
        if let Some(latency) = client.latency {
            put(Figure::P50Us, latency.p50_us);
            put(Figure::P99Us, latency.p99_us);
            put(Figure::P999Us, latency.p999_us);
        }
        if let Some(bytes) = client.accepted_bytes {
            put(Figure::AcceptedBytes, bytes);
        }
        if let Some(bytes) = client.kernel_bytes {
            put(Figure::KernelBytes, bytes);
        }
        let payload = client.payload as f64;
        put(
            Figure::LoopbackBytesPerByte,
            client.loopback_bytes as f64 / payload,
        );
        if let Some(bytes) = redirected {
            put(Figure::Redirected, bytes as f64 / payload);
        }
        figures
    }

    pub fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }

    /// The median of each figure.
    pub fn median(rounds: &[Self]) -> Self {
        let values = |figure| {
            rounds
                .iter()
                .filter_map(|round| round.get(figure))
                .collect::<Vec<_>>()
        };
        let medians = Figure::ALL.map(|figure| Some((figure, median(&values(figure))?)));
        Self(medians.into_iter().flatten().collect())
    }
}
