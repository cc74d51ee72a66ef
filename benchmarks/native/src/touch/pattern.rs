//! Which page is next: at random, in order, or as the hot and cold pages of real programs are.

/// A multiplier without a factor in common with any number of pages: it is prime and larger.
const SCATTER: u64 = 2_654_435_761;

/// The skew of the YCSB benchmark.
const ZIPF_THETA: f64 = 0.99;

/// An order in which pages are touched, and what share of the touches write.
#[derive(Clone, Copy, PartialEq)]
pub struct Pattern {
    draw: Draw,
    pub is_half_writes: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Draw {
    Random,
    Sequential,
    Zipf,
}

impl Pattern {
    pub const NAMES: [&str; 5] = ["random", "sequential", "zipf", "random-writes", "zipf-writes"];

    pub fn named(name: &str) -> Option<Pattern> {
        let (draw, is_half_writes) = match name.strip_suffix("-writes") {
            Some(draw) => (draw, true),
            None => (name, false),
        };
        let draw = match draw {
            "random" => Draw::Random,
            "sequential" if !is_half_writes => Draw::Sequential,
            "zipf" => Draw::Zipf,
            _ => return None,
        };
        Some(Pattern { draw, is_half_writes })
    }

    /// Draws among `count` pages. Whoever goes in order begins after `at`.
    pub fn pages(self, count: usize, seed: u64, at: usize) -> Pages {
        let mut random = Random(seed | 1 << 63);
        for _ in 0..16 {
            random.next();
        }
        let zipf = if self.draw == Draw::Zipf { Zipf::new(count) } else { Zipf::default() };
        Pages { pattern: self, count: count as u64, random, at: at as u64, zipf }
    }
}

/// The pages that one thread touches, without end.
pub struct Pages {
    pattern: Pattern,
    count: u64,
    random: Random,
    at: u64,
    zipf: Zipf,
}

impl Pages {
    /// The next page, and whether it is written.
    pub fn next(&mut self) -> (usize, bool) {
        let drawn = self.random.next();
        let page = match self.pattern.draw {
            Draw::Random => ((u128::from(drawn) * u128::from(self.count)) >> 64) as u64,
            Draw::Sequential => {
                self.at = (self.at + 1) % self.count;
                self.at
            }
            // Ranks lie scattered: neighbours in memory are not neighbours in rank.
            Draw::Zipf => self.zipf.rank(drawn) * SCATTER % self.count,
        };
        (page as usize, self.pattern.is_half_writes && self.random.next() >> 63 == 0)
    }

    /// Where the next one that goes in order continues.
    pub fn at(&self) -> usize {
        self.at as usize
    }
}

/// xorshift64*, enough for a choice of pages.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Ranks by Zipf's law, drawn without a table that would itself be memory: Gray et al., "Quickly
/// generating billion-record synthetic databases", SIGMOD 1994.
#[derive(Default)]
struct Zipf {
    count: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(count: usize) -> Zipf {
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-ZIPF_THETA)).sum();
        let zeta_two = 1.0 + 0.5f64.powf(ZIPF_THETA);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - ZIPF_THETA)) / (1.0 - zeta_two / zeta);
        Zipf { count: count as f64, zeta, eta }
    }

    fn rank(&self, drawn: u64) -> u64 {
        let uniform = (drawn >> 11) as f64 / (1u64 << 53) as f64;
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(ZIPF_THETA) {
            return 1;
        }
        let rank = self.count * (self.eta * uniform - self.eta + 1.0).powf(1.0 / (1.0 - ZIPF_THETA));
        (rank as u64).min(self.count as u64 - 1)
    }
}
