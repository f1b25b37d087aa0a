//! Chance that can be computed backwards: numbers from a seed, shuffles with an inverse, and draws by weight. All of it is
//! arithmetic on the number of a thing, so nothing has to be kept of a hundred million of them.

/// A number as good as random for thing `n` in the stream of that name; the same for the same three, always.
///
/// SplitMix64's finaliser (Steele, Lea and Flood, 2014), twice.
#[inline]
pub fn draw(seed: u64, stream: u64, n: u64) -> u64 {
    mix(mix(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93)).wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A drawn number as one below `end`, even but for a bias of one in 2^32 and less.
#[inline]
pub fn below(drawn: u64, end: u64) -> u64 {
    ((u128::from(drawn) * u128::from(end)) >> 64) as u64
}

/// Puts the numbers below `end` into another order, and back: a Feistel network over as many bits as `end` has, walked
/// until it comes back below `end`, which takes two steps on average at most.
#[derive(Debug, Clone)]
pub struct Shuffle {
    end: u64,
    low_bits: u32,
    low_mask: u64,
    high_mask: u64,
    keys: [u64; 4],
}

impl Shuffle {
    /// # Panics
    /// When there are no numbers, or 2^63 and more.
    pub fn new(seed: u64, stream: u64, end: u64) -> Self {
        assert!(end > 0 && end < 1 << 63, "a shuffle is of 1 to 2^63 numbers");
        let bits = (64 - (end - 1).leading_zeros()).max(2);
        let low_bits = bits / 2;
        let keys = [0, 1, 2, 3].map(|round| draw(seed, stream, round));
        Self { end, low_bits, low_mask: (1 << low_bits) - 1, high_mask: (1 << (bits - low_bits)) - 1, keys }
    }

    /// Where `n` goes.
    #[inline]
    pub fn of(&self, n: u64) -> u64 {
        debug_assert!(n < self.end);
        let mut at = n;
        loop {
            let (mut high, mut low) = (at >> self.low_bits, at & self.low_mask);
            for pair in self.keys.chunks_exact(2) {
                high ^= mix(low ^ pair[0]) & self.high_mask;
                low ^= mix(high ^ pair[1]) & self.low_mask;
            }
            at = high << self.low_bits | low;
            if at < self.end {
                return at;
            }
        }
    }

    /// What went to `at`.
    #[inline]
    pub fn back(&self, at: u64) -> u64 {
        debug_assert!(at < self.end);
        let mut n = at;
        loop {
            let (mut high, mut low) = (n >> self.low_bits, n & self.low_mask);
            for pair in self.keys.chunks_exact(2).rev() {
                low ^= mix(high ^ pair[1]) & self.low_mask;
                high ^= mix(low ^ pair[0]) & self.high_mask;
            }
            n = high << self.low_bits | low;
            if n < self.end {
                return n;
            }
        }
    }
}

/// Draws one of a few things by their weights, in one step (Vose, 1991).
#[derive(Debug, Clone)]
pub struct Weighted {
    /// How much of the slot is its own, of 2^32, and whose the rest is.
    slots: Vec<(u32, u32)>,
}

impl Weighted {
    /// # Panics
    /// When there are no weights.
    pub fn new(weights: &[f64]) -> Self {
        assert!(!weights.is_empty(), "a draw is among one thing at least");
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let mut left: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut slots: Vec<(u32, u32)> = (0..weights.len() as u32).map(|at| (u32::MAX, at)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|at| left[*at] < 1.0);
        while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
            slots[poor] = ((left[poor] * f64::from(u32::MAX)) as u32, rich as u32);
            left[rich] -= 1.0 - left[poor];
            if left[rich] < 1.0 { small.push(rich) } else { large.push(rich) }
        }
        Self { slots }
    }

    /// The `k`th has a weight of 1/(k+1)^`exponent`: few have most, and the rest has little (Zipf's law).
    pub fn zipf(count: usize, exponent: f64) -> Self {
        Self::new(&(1..=count).map(|rank| (rank as f64).powf(-exponent)).collect::<Vec<_>>())
    }

    #[inline]
    pub fn pick(&self, drawn: u64) -> usize {
        let at = below(drawn, self.slots.len() as u64) as usize;
        let (own, other) = self.slots[at];
        if (drawn as u32) <= own { at } else { other as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_hits_every_number_once_and_comes_back() {
        for end in [1, 2, 3, 5, 16, 1_000, 65_537] {
            let shuffle = Shuffle::new(1, 7, end);
            let mut hit = vec![false; end as usize];
            for n in 0..end {
                let at = shuffle.of(n);
                assert!(!std::mem::replace(&mut hit[at as usize], true), "{at} twice of {end}");
                assert_eq!(shuffle.back(at), n);
            }
        }
    }

    #[test]
    fn draws_follow_their_weights() {
        let weighted = Weighted::new(&[1.0, 0.0, 3.0, 4.0]);
        let mut counts = [0_u32; 4];
        for n in 0..80_000 {
            counts[weighted.pick(draw(9, 1, n))] += 1;
        }
        assert!((9_500..10_500).contains(&counts[0]) && counts[1] <= 1, "{counts:?}");
        assert!((29_000..31_000).contains(&counts[2]) && (39_000..41_000).contains(&counts[3]), "{counts:?}");
        let zipf = Weighted::zipf(100, 1.0);
        let first = (0..100_000).filter(|n| zipf.pick(draw(9, 2, *n)) == 0).count();
        assert!((18_000..20_600).contains(&first), "1 / H(100) = 19.3 %, not {first}");
    }
}
