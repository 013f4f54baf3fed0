//! Medians and quartiles of paired rounds, and when a difference is significant.

use serde::Serialize;

/// A row is noisy if plain TCP differs from itself by more than this in a quarter of the rounds.
const NOISY: f64 = 0.10;
/// A row is noisy if the middle half of the ratios spans more than this share of their median.
const SCATTERED: f64 = 0.20;

/// The ratios of all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    /// First and third quartile.
    pub q1: f64,
    pub q3: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let at = |share| quantile(&sorted, share);
        Some(Self {
            median: at(0.5)?,
            q1: at(0.25)?,
            q3: at(0.75)?,
            min: at(0.0)?,
            max: at(1.0)?,
        })
    }
}

pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value below which this share of the values lies, interpolated if need be. They must be sorted in ascending order.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// How much plain TCP differs from itself: by at most this share in three quarters of the rounds.
pub fn noise(controls: &[f64]) -> Option<f64> {
    let deviations: Vec<_> = controls.iter().map(|ratio| ratio.ln().abs().exp_m1()).collect();
    quantile(&sorted(&deviations), 0.75)
}

/// The meaning of a ratio to plain TCP; above 1 is better.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Better,
    Worse,
    /// No difference beyond the noise.
    Same,
    /// The rounds differ so much that the ratio is meaningless.
    Noisy,
}

impl Verdict {
    pub fn of(ratio: &Spread, noise: f64) -> Self {
        if noise > NOISY || ratio.q3 - ratio.q1 > SCATTERED * ratio.median {
            return Self::Noisy;
        }
        let (lowest, highest) = (1.0 / (1.0 + noise), 1.0 + noise);
        if ratio.median > highest && ratio.q1 > 1.0 {
            Self::Better
        } else if ratio.median < lowest && ratio.q3 < 1.0 {
            Self::Worse
        } else {
            Self::Same
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0], 0.75), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.75), Some(4.0));
    }

    #[test]
    fn noise_counts_both_directions_alike() {
        let noise = noise(&[0.5, 2.0, 1.0]).unwrap();
        assert!((noise - 1.0).abs() < 1e-9, "{noise}");
    }

    #[test]
    fn a_difference_is_one_beyond_the_noise_only() {
        let verdict = |ratios: &[f64], noise| Verdict::of(&Spread::of(ratios).unwrap(), noise);
        assert_eq!(verdict(&[1.30, 1.31, 1.32], 0.05), Verdict::Better);
        assert_eq!(verdict(&[0.80, 0.81, 0.82], 0.05), Verdict::Worse);
        assert_eq!(verdict(&[1.02, 1.03, 1.04], 0.05), Verdict::Same);
        assert_eq!(verdict(&[0.90, 1.06, 1.08], 0.05), Verdict::Same);
        assert_eq!(verdict(&[1.30, 1.31, 1.32], 0.11), Verdict::Noisy);
        assert_eq!(verdict(&[1.0, 1.5, 2.0], 0.01), Verdict::Noisy);
    }
}
