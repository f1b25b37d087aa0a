//! Codes, blind keys, encryption and normal forms, each beside a reference in the same run, with the ratio at the end.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aes_gcm_siv::KeyInit as _;
use aes_gcm_siv::aead::Aead;
use hmac::{Hmac, Mac};
use rand::SeedableRng;
use rand::rngs::StdRng;
use sha2::Sha256;
use tessera::clock::Clock;
use tessera::id::{Day, MemberIdMinter, NodeLease};
use tessera::member::key::{Kind, normalise};
use tessera::secret::{SecretFile, Secrets};

use crate::support::{Bench, report::is_quick};

struct Pair {
    path: &'static str,
    reference: &'static str,
    ours: Box<dyn FnMut()>,
    theirs: Box<dyn FnMut()>,
}

fn keyed() -> Hmac<Sha256> {
    Hmac::new_from_slice(&[1; 32]).expect("HMAC takes keys of any length")
}

fn hmac(keyed: &Hmac<Sha256>, text: &[u8]) {
    let mut keyed = keyed.clone();
    keyed.update(black_box(text));
    black_box(keyed.finalize().into_bytes());
}

fn pairs() -> Vec<Pair> {
    let file = SecretFile::generate(&mut StdRng::seed_from_u64(1));
    let secrets: &'static Secrets = Box::leak(Box::new(Secrets::new(&file, StdRng::seed_from_u64(2))));
    let keyed: &'static Hmac<Sha256> = Box::leak(Box::new(keyed()));
    let cipher: &'static _ = Box::leak(Box::new(aes_gcm_siv::Aes256GcmSiv::new(&[1; 32].into())));
    let nonce = aes_gcm_siv::Nonce::from([1; 12]);
    let day: Day = "2026-11-22".parse().expect("a date");
    let code = secrets.codes().mint(day, 1).expect("fits").to_string();
    let sealed = secrets.encrypt("member", "phone", 42, "+8613800000001");
    let plain = cipher.encrypt(&nonce, b"+8613800000001".as_slice()).expect("short");
    let minter = MemberIdMinter::new(
        NodeLease::unshared(1, 0..i64::MAX, Instant::now() + Duration::from_secs(86_400)),
        Clock::system(),
    );
    let mut counter = 0;
    let hex_and_hmac = move || {
        black_box(u64::from_str_radix(black_box("0261122abcdef012"), 16).expect("hex"));
        hmac(keyed, &[7; 8]);
    };
    vec![
        Pair {
            path: "parse a coupon code",
            reference: "parse 16 hex digits, HMAC-SHA-256",
            ours: Box::new(move || _ = black_box(secrets.codes().parse(black_box(&code)))),
            theirs: Box::new(hex_and_hmac),
        },
        Pair {
            path: "mint a coupon code",
            reference: "parse 16 hex digits, HMAC-SHA-256",
            ours: Box::new(move || {
                counter += 1;
                black_box(secrets.codes().mint(day, counter).expect("fits"));
            }),
            theirs: Box::new(hex_and_hmac),
        },
        Pair {
            path: "blind key of a phone number",
            reference: "HMAC-SHA-256",
            ours: Box::new(move || drop(black_box(secrets.blind(1, black_box("+8613800000001"))))),
            theirs: Box::new(move || hmac(keyed, b"\x01+8613800000001")),
        },
        Pair {
            path: "encrypt a phone number",
            reference: "AES-GCM-SIV, no associated data",
            ours: Box::new(move || {
                drop(black_box(secrets.encrypt("member", "phone", 42, black_box("+8613800000001"))))
            }),
            theirs: Box::new(move || drop(black_box(cipher.encrypt(&nonce, black_box(b"+8613800000001".as_slice()))))),
        },
        Pair {
            path: "decrypt a phone number",
            reference: "AES-GCM-SIV, no associated data",
            ours: Box::new(move || drop(black_box(secrets.decrypt("member", "phone", 42, black_box(&sealed))))),
            theirs: Box::new(move || drop(black_box(cipher.decrypt(&nonce, black_box(plain.as_slice()))))),
        },
        Pair {
            path: "normalise a plain Chinese mobile number",
            reference: "libphonenumber: parse, validate",
            ours: Box::new(|| drop(black_box(normalise(Kind::Phone, black_box("13800000001"))))),
            theirs: Box::new(by_library),
        },
        Pair {
            path: "normalise any other phone number",
            reference: "libphonenumber: parse, validate",
            ours: Box::new(|| drop(black_box(normalise(Kind::Phone, black_box("138 0000 0001"))))),
            theirs: Box::new(by_library),
        },
        Pair {
            path: "mint a member id",
            reference: "HMAC-SHA-256",
            // Bursts outrun the 4096 ids a millisecond holds; the refusal costs the same.
            ours: Box::new(move || _ = black_box(minter.mint())),
            theirs: Box::new(move || hmac(keyed, &[7; 8])),
        },
    ]
}

fn by_library() {
    let number = phonenumber::parse(Some(phonenumber::country::Id::CN), black_box("13800000001")).expect("a number");
    black_box(phonenumber::is_valid(&number));
}

pub fn run(bench: &mut Bench) {
    for mut pair in pairs() {
        bench.criterion.bench_function(&format!("codec/{}", pair.path), |bencher| bencher.iter(&mut pair.ours));
        compare(bench, &mut pair);
    }
}

/// In turns, so that both see the same machine; the median of the turns.
fn compare(bench: &mut Bench, pair: &mut Pair) {
    let turns = if is_quick() { 5 } else { 15 };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        ours.push(nanoseconds(&mut pair.ours));
        theirs.push(nanoseconds(&mut pair.theirs));
    }
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let (ours, theirs) = (ours[turns / 2], theirs[turns / 2]);
    let reference = format!("{}: {theirs:.0} ns", pair.reference);
    bench.report.add("codec", pair.path, 1, format!("{ours:.0} ns"), reference, ours / theirs, "");
}

fn nanoseconds(call: &mut dyn FnMut()) -> f64 {
    let calls = if is_quick() { 500 } else { 2_000 };
    let began = Instant::now();
    (0..calls).for_each(|_| call());
    began.elapsed().as_nanos() as f64 / f64::from(calls)
}
