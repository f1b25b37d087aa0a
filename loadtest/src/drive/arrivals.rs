//! When requests are due: the schedule of an open loop, fixed by its seed before the first one is sent.
//!
//! Arrivals of a unit rate are drawn, and carried over to the workload's curve by the inverse of its integral. So a
//! schedule does not depend on how long answers take, and several generators can share one out: Poisson streams of a part
//! of the rate add up to one of the whole, and paced ones interleave.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::workload::{Arrival, Arrivals, Workload};

/// One thing that is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Due {
    /// After the start.
    pub at: Duration,
    pub kind: Arrival,
    /// Its number in its stream, from 0; of sales and coupons what each one brings follows from it.
    pub no: u64,
    /// For everything else that is drawn.
    pub seed: u64,
}

/// A stream of arrivals: part `part` of `parts`.
pub struct Schedule {
    rng: StdRng,
    arrivals: Arrivals,
    /// Arrivals by then, of this part, at the end of each piece of the curve.
    integral: Vec<f64>,
    piece_secs: f64,
    /// Arrivals of unit rate so far.
    drawn: f64,
    weights: Vec<(Arrival, f64)>,
    no: u64,
}

impl Schedule {
    pub fn new(workload: &Workload, seed: u64, part: usize, parts: usize) -> Self {
        let curve = if workload.curve.is_empty() { &[1.0][..] } else { &workload.curve };
        let piece_secs = workload.seconds / curve.len() as f64;
        let sum: f64 = curve.iter().sum();
        let all = workload.arrivals_expected() / parts as f64;
        let mut so_far = 0.0;
        let integral = curve.iter().map(|share| {
            so_far += share / sum * all;
            so_far
        });
        let integral = integral.collect();
        let sum: f64 = workload.mix.weights().iter().map(|(_, weight)| weight).sum();
        let mut so_far = 0.0;
        let weights = workload.mix.weights().into_iter().filter(|(_, weight)| *weight > 0.0).map(|(kind, weight)| {
            so_far += weight / sum;
            (kind, so_far)
        });
        let weights = weights.collect();
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(part as u64));
        let drawn = match workload.arrivals {
            Arrivals::Poisson => 0.0,
            // The first of this part, so that the parts interleave.
            Arrivals::Paced => (part as f64 + 0.5) / parts as f64 - 1.0,
        };
        Self { rng, arrivals: workload.arrivals, integral, piece_secs, drawn, weights, no: 0 }
    }

    /// The instant at which so many of unit rate have come; none when that is never.
    fn instant(&self, drawn: f64) -> Option<Duration> {
        let piece = self.integral.iter().position(|end| drawn < *end)?;
        let begin = if piece == 0 { 0.0 } else { self.integral[piece - 1] };
        let within = (drawn - begin) / (self.integral[piece] - begin);
        Some(Duration::from_secs_f64((piece as f64 + within) * self.piece_secs))
    }
}

impl Iterator for Schedule {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        self.drawn += match self.arrivals {
            // 1 - u is never 0.
            Arrivals::Poisson => -(1.0 - self.rng.random::<f64>()).ln(),
            Arrivals::Paced => 1.0,
        };
        let at = self.instant(self.drawn)?;
        let draw: f64 = self.rng.random();
        let kind = self.weights.iter().find(|(_, until)| draw < *until).or(self.weights.last())?.0;
        let due = Due { at, kind, no: self.no, seed: self.rng.random() };
        self.no += 1;
        Some(due)
    }
}

/// A place below `len`: even at skew 0, the smaller the likelier above. The continuous form of Zipf's law, so that a draw
/// costs the same for any `len`.
pub fn skewed(rng: &mut impl Rng, len: usize, skew: f64) -> usize {
    let u: f64 = rng.random();
    let len_f = len as f64;
    let place = if skew == 0.0 {
        u * len_f
    } else if (skew - 1.0).abs() < 1e-9 {
        (len_f + 1.0).powf(u) - 1.0
    } else {
        let power = 1.0 - skew;
        (((len_f + 1.0).powf(power) - 1.0) * u + 1.0).powf(1.0 / power) - 1.0
    };
    (place as usize).min(len.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(arrivals: Arrivals) -> Workload {
        let mut workload = Workload::load("pos-day").unwrap();
        workload.arrivals = arrivals;
        workload.rate = 1_000.0;
        workload
    }

    #[test]
    fn a_schedule_is_the_same_for_the_same_seed_and_another_for_another() {
        let workload = workload(Arrivals::Poisson);
        let first: Vec<Due> = Schedule::new(&workload, 7, 0, 1).collect();
        assert_eq!(first, Schedule::new(&workload, 7, 0, 1).collect::<Vec<_>>());
        assert_ne!(first, Schedule::new(&workload, 8, 0, 1).collect::<Vec<_>>());
        assert!(first.is_sorted_by(|a, b| a.at <= b.at));
    }

    #[test]
    fn parts_add_up_to_the_rate_and_follow_the_curve() {
        for arrivals in [Arrivals::Poisson, Arrivals::Paced] {
            let workload = workload(arrivals);
            let all: Vec<Due> = (0..4).flat_map(|part| Schedule::new(&workload, 1, part, 4)).collect();
            let expected = workload.arrivals_expected();
            let apart = (all.len() as f64 - expected).abs();
            assert!(apart < 6.0 * expected.sqrt(), "{arrivals:?}: {} of {expected}", all.len());
            // Hour 4 has the noon rush, hour 0 the quiet of the morning: 1.9 against 0.3.
            let hour = |n: f64| {
                let piece = workload.seconds / workload.curve.len() as f64;
                let within = |due: &&Due| due.at.as_secs_f64() >= n * piece && due.at.as_secs_f64() < (n + 1.0) * piece;
                all.iter().filter(within).count() as f64
            };
            let ratio = hour(4.0) / hour(0.0);
            assert!((5.0..8.0).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn paced_parts_interleave_evenly() {
        let mut workload = workload(Arrivals::Paced);
        workload.curve = Vec::new();
        let mut all: Vec<Duration> =
            (0..3).flat_map(|part| Schedule::new(&workload, 1, part, 3)).map(|due| due.at).collect();
        all.sort();
        let gap = workload.seconds / workload.arrivals_expected();
        for pair in all.windows(2) {
            let got = (pair[1] - pair[0]).as_secs_f64();
            assert!((got / gap - 1.0).abs() < 0.01, "{got} of {gap}");
        }
    }

    #[test]
    fn a_skewed_draw_stays_in_bounds_and_prefers_the_first() {
        let mut rng = StdRng::seed_from_u64(3);
        for skew in [0.0, 0.5, 1.0, 1.3] {
            let mut counts = [0; 100];
            for _ in 0..100_000 {
                counts[skewed(&mut rng, 100, skew)] += 1;
            }
            let expected = 100_f64.powf(skew);
            let ratio = f64::from(counts[0]) / f64::from(counts[99]).max(1.0);
            assert!(ratio > 0.5 * expected && (skew > 0.0 || ratio < 2.0), "{skew}: {ratio} of {expected}");
        }
        assert_eq!(skewed(&mut rng, 1, 0.9), 0);
    }
}
