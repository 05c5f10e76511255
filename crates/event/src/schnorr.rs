//! BIP-340 signatures on k256, many at once: for wasm32, where every instruction is paid for.
//!
//! A signature (R, s) of the key P over a message holds if s·G = R + e·P. A batch holds if the sum of
//! all these equations does, each multiplied with a weight of its own; the weights come from a hash
//! of the whole batch, so nobody can choose signatures whose errors cancel out. The one large sum is
//! worked out with buckets (Pippenger): each point goes to one bucket for every digit of its factor.
//! Buckets are added up in pairs, all of them side by side, because then the divisions that make
//! adding points expensive can share a single one (Montgomery's trick).
//!
//! Nothing here is secret, so nothing has to take the same time for every input. Machines use
//! libsecp256k1 instead; there, this file is compiled for the tests that compare the two.

use std::collections::BTreeMap;

use k256::{
    AffinePoint, FieldBytes, ProjectivePoint, Scalar, Secp256k1,
    elliptic_curve::{
        PrimeField, group::Group, hazmat::FieldArithmetic, ops::Reduce, point::AffineCoordinates,
    },
    schnorr::VerifyingKey,
};
use sha2::{Digest, Sha256};

use crate::claim::Claim;

/// Below this many signatures, the sum costs more than to check each by itself.
const BATCH_MIN: usize = 8;

/// An element of the field that coordinates are in. Its operations do not carry at once: the comments
/// below give magnitudes, how many times over a value may fill its limbs. Factors may have 8.
type Field = <Secp256k1 as FieldArithmetic>::FieldElement;

/// Whether one claim is true.
pub fn check(claim: Claim<'_>) -> bool {
    let Ok(key) = VerifyingKey::from_slice(&claim.pubkey.0) else { return false };
    let Ok(sig) = k256::schnorr::Signature::from_bytes(&claim.sig.0) else { return false };
    // Nostr signs the 32 bytes of the id themselves; `Verifier::verify` would hash them once more.
    key.verify_raw(&claim.id.0, &sig).is_ok()
}

/// Which claims are true. The false ones are found by halving: a batch of them costs a few times as
/// much as a batch of true ones.
pub fn check_all(claims: &[Claim<'_>]) -> Vec<bool> {
    if claims.len() < BATCH_MIN {
        return claims.iter().map(|claim| check(*claim)).collect();
    }
    let batch = Batch::new(claims);
    let mut verdicts = vec![false; claims.len()];
    batch.settle(&batch.equations, &mut verdicts);
    verdicts
}

/// Equations whose parts have been read.
struct Batch<'a> {
    claims: &'a [Claim<'a>],
    /// The different keys: events of one author share a term of the sum.
    keys: Vec<Point>,
    equations: Vec<Equation>,
}

/// s·G = R + e·P, times its weight.
struct Equation {
    /// Which of the claims it belongs to.
    claim: usize,
    /// Which of the keys P is.
    key: usize,
    r: Point,
    weight: u128,
    weighted_s: Scalar,
    weighted_e: Scalar,
}

impl Batch<'_> {
    /// Claims without a valid key, R or s have no equation: they are false.
    fn new<'a>(claims: &'a [Claim<'a>]) -> Batch<'a> {
        let mut keys = Vec::new();
        let mut place_of_key = BTreeMap::new();
        let mut equations = Vec::with_capacity(claims.len());
        let challenge = challenge_prefix();
        for (place, (claim, weight)) in claims.iter().zip(weights(claims)).enumerate() {
            let key = *place_of_key.entry(claim.pubkey).or_insert_with(|| {
                keys.push(Point::with_even_y(&claim.pubkey.0)?);
                Some(keys.len() - 1)
            });
            let (r, s) = claim.sig.0.split_at(32);
            let (Some(key), Some(s)) = (key, scalar(s)) else { continue };
            let Some(r) = Point::with_even_y(r) else { continue };
            let e = challenge.clone().chain_update(&claim.sig.0[..32]);
            let e = e.chain_update(claim.pubkey.0).chain_update(claim.id.0).finalize();
            let e = <Scalar as Reduce<FieldBytes>>::reduce(&e);
            let factor = Scalar::from(weight);
            equations.push(Equation {
                claim: place,
                key,
                r,
                weight,
                weighted_s: s * factor,
                weighted_e: e * factor,
            });
        }
        Batch { claims, keys, equations }
    }

    fn settle(&self, equations: &[Equation], verdicts: &mut [bool]) {
        if equations.len() < BATCH_MIN {
            equations.iter().for_each(|one| verdicts[one.claim] = check(self.claims[one.claim]));
        } else if self.hold(equations) {
            equations.iter().for_each(|one| verdicts[one.claim] = true);
        } else {
            let (one, other) = equations.split_at(equations.len() / 2);
            self.settle(one, verdicts);
            self.settle(other, verdicts);
        }
    }

    /// Whether all of them hold: the sum of w·R + w·e·P - w·s·G is nothing.
    fn hold(&self, equations: &[Equation]) -> bool {
        let mut sum = Sum::new(2 * equations.len());
        let mut by_key: BTreeMap<usize, Scalar> = BTreeMap::new();
        let mut generator = Scalar::ZERO;
        for equation in equations {
            sum.add(equation.r, &equation.weight.to_le_bytes());
            *by_key.entry(equation.key).or_insert(Scalar::ZERO) += equation.weighted_e;
            generator -= equation.weighted_s;
        }
        for (key, factor) in by_key {
            sum.add(self.keys[key], &little_endian(&factor));
        }
        sum.add(Point::generator(), &little_endian(&generator));
        sum.vanishes()
    }
}

/// One for each claim, from 1 to 2^128.
fn weights<'a>(claims: &'a [Claim<'a>]) -> impl Iterator<Item = u128> + 'a {
    let mut transcript = Sha256::new_with_prefix("aquifer/batch");
    for claim in claims {
        transcript.update(claim.pubkey.0);
        transcript.update(claim.id.0);
        transcript.update(claim.sig.0);
    }
    let seed = transcript.finalize();
    (0..claims.len() as u64).map(move |place| {
        let digest = Sha256::new_with_prefix(seed).chain_update(place.to_le_bytes()).finalize();
        let (half, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        u128::from_le_bytes(*half).max(1)
    })
}

/// What every challenge's hash begins with (BIP-340, tagged hashes).
fn challenge_prefix() -> Sha256 {
    let tag = Sha256::digest("BIP0340/challenge");
    Sha256::new_with_prefix(tag).chain_update(tag)
}

fn scalar(bytes: &[u8]) -> Option<Scalar> {
    Scalar::from_repr(FieldBytes::try_from(bytes).ok()?).into_option()
}

fn little_endian(scalar: &Scalar) -> [u8; 32] {
    let mut bytes: [u8; 32] = scalar.to_bytes().into();
    bytes.reverse();
    bytes
}

/// A point of the curve, but not the one at infinity. Both coordinates have magnitude 1.
#[derive(Clone, Copy)]
struct Point {
    x: Field,
    y: Field,
}

impl Point {
    /// The point that BIP-340 means by these 32 bytes, if there is one.
    fn with_even_y(x: &[u8]) -> Option<Point> {
        let x = Field::from_bytes(&FieldBytes::try_from(x).ok()?).into_option()?;
        let y = (x.square().mul(&x) + Field::from_u64(7)).sqrt().into_option()?.normalize();
        let is_odd = bool::from(y.is_odd());
        Some(Point { x, y: if is_odd { y.negate(1).normalize_weak() } else { y } })
    }

    fn generator() -> Point {
        let coordinate = |bytes| Field::from_bytes(&bytes).expect("it is below the modulus");
        let point = AffinePoint::GENERATOR;
        Point { x: coordinate(point.x()), y: coordinate(point.y()) }
    }

    fn negative(self) -> Point {
        Point { x: self.x, y: self.y.negate(1).normalize_weak() }
    }

    /// The line through this point and another, or the tangent where they are one. None: it is
    /// upright, and their sum is nothing.
    fn line(&self, other: &Point) -> Option<Line> {
        let run = other.x + self.x.negate(1); // 3
        if !bool::from(run.normalizes_to_zero()) {
            return Some(Line { rise: other.y + self.y.negate(1), run });
        }
        let is_same = bool::from((other.y + self.y.negate(1)).normalizes_to_zero());
        // No point of this curve has y = 0, so a tangent is never upright.
        is_same.then(|| Line { rise: self.x.square().mul_single(3), run: self.y.double() })
    }

    /// The sum of this point and another, which are on a line of this slope.
    fn plus(&self, other: &Point, slope: &Field) -> Point {
        let x = slope.square() + self.x.negate(1) + other.x.negate(1); // 5
        let x = x.normalize_weak();
        let y = slope.mul(&(self.x + x.negate(1))) + self.y.negate(1); // 3
        Point { x, y: y.normalize_weak() }
    }

    fn to_affine(self) -> AffinePoint {
        let bytes = |coordinate: Field| coordinate.normalize().to_bytes();
        AffinePoint::from_coordinates(&bytes(self.x), &bytes(self.y))
            .expect("sums of points are points")
    }
}

/// Its slope is rise / run.
struct Line {
    rise: Field,
    run: Field,
}

/// A sum of points, each times a factor.
struct Sum {
    /// Bits of a digit.
    width: usize,
    /// For each place of a digit, and each value that a digit may have there: the points.
    buckets: Vec<Vec<Point>>,
}

const FACTOR_BITS: usize = 256;

impl Sum {
    /// A sum that is to have about so many points.
    fn new(points: usize) -> Sum {
        // Wider digits mean fewer places to add at, and more buckets to bring together.
        let width = match points {
            ..32 => 4,
            32..256 => 5,
            256..1024 => 6,
            _ => 8,
        };
        Sum::of_width(width)
    }

    fn of_width(width: usize) -> Sum {
        let places = FACTOR_BITS / width + 1;
        Sum { width, buckets: vec![Vec::new(); places << (width - 1)] }
    }

    /// Adds `point` times `factor`, a little-endian number of at most 32 bytes.
    fn add(&mut self, point: Point, factor: &[u8]) {
        let negative = point.negative();
        let values = 1 << (self.width - 1);
        let mut carry = 0;
        for place in 0..=8 * factor.len() / self.width {
            let digit = carry + bits(factor, place * self.width, self.width);
            // A digit above half its range is written as a negative one, with a carry.
            carry = usize::from(digit > values);
            let (size, point) =
                if carry == 1 { (2 * values - digit, negative) } else { (digit, point) };
            if size > 0 {
                self.buckets[place * values + size - 1].push(point);
            }
        }
        debug_assert_eq!(carry, 0, "the last digit has room for the carry");
    }

    fn vanishes(mut self) -> bool {
        add_up(&mut self.buckets);
        let mut sum = ProjectivePoint::IDENTITY;
        for bit in self.by_bit().iter().rev() {
            sum.double_in_place();
            if let Some(point) = bit.first() {
                sum += point.to_affine();
            }
        }
        sum.is_identity().into()
    }

    /// The same sum in digits of one bit: a bucket's point belongs to every bit of its digit.
    fn by_bit(self) -> Vec<Vec<Point>> {
        let values = 1 << (self.width - 1);
        let mut bits = vec![Vec::new(); self.buckets.len() / values * self.width];
        for (bucket, points) in self.buckets.iter().enumerate() {
            let (place, size) = (bucket / values, bucket % values + 1);
            let of_digit = (0..self.width).filter(|bit| size >> bit & 1 == 1);
            of_digit.for_each(|bit| bits[place * self.width + bit].extend(points));
        }
        add_up(&mut bits);
        bits
    }
}

/// Bits `at..at + width` of a little-endian number; beyond its end there are zeros.
fn bits(number: &[u8], at: usize, width: usize) -> usize {
    let byte = |place: usize| usize::from(number.get(place).copied().unwrap_or(0));
    let window = byte(at / 8) | byte(at / 8 + 1) << 8;
    window >> (at % 8) & ((1 << width) - 1)
}

/// Adds the points of each bucket up, so that it holds one or none.
fn add_up(buckets: &mut [Vec<Point>]) {
    while buckets.iter().any(|bucket| bucket.len() > 1) {
        let pairs = buckets.iter().flat_map(|bucket| bucket.as_chunks().0);
        let lines: Vec<Option<Line>> = pairs.map(|[one, other]| one.line(other)).collect();
        let mut slopes = slopes(&lines).into_iter();
        for bucket in &mut *buckets {
            let mut kept = 0;
            for place in 0..bucket.len() / 2 {
                let slope = slopes.next().expect("there is one for each pair");
                if let Some(slope) = slope {
                    bucket[kept] = bucket[2 * place].plus(&bucket[2 * place + 1], &slope);
                    kept += 1;
                }
            }
            if bucket.len() % 2 == 1 {
                bucket[kept] = bucket[bucket.len() - 1];
                kept += 1;
            }
            bucket.truncate(kept);
        }
    }
}

/// The slope of every line, with one division for all of them.
fn slopes(lines: &[Option<Line>]) -> Vec<Option<Field>> {
    let mut product = Field::ONE;
    let mut slopes = Vec::with_capacity(lines.len());
    for line in lines {
        slopes.push(line.as_ref().map(|_| product));
        if let Some(line) = line {
            product = product.mul(&line.run);
        }
    }
    // The product of all runs, inverted; going back, one run after the other is taken out of it.
    let mut inverse = product.invert_vartime().expect("no run is zero");
    for (slope, line) in slopes.iter_mut().zip(lines).rev() {
        let (Some(before), Some(line)) = (slope.as_mut(), line) else { continue };
        *before = before.mul(&inverse).mul(&line.rise);
        inverse = inverse.mul(&line.run);
    }
    slopes
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use secp256k1::{Keypair, SecretKey, schnorr};

    use super::*;
    use crate::{EventId, PublicKey, Signature, check_signature};

    type Owned = (PublicKey, EventId, Signature);

    fn signed(author: u8, message: u8) -> Owned {
        let key = SecretKey::from_secret_bytes([author + 1; 32]).unwrap();
        let key = Keypair::from_secret_key(&key);
        let sig = schnorr::sign_no_aux_rand(&[message; 32], &key).to_byte_array();
        let pubkey = key.x_only_public_key().0.to_byte_array();
        (PublicKey(pubkey), EventId([message; 32]), Signature(sig))
    }

    fn claim((pubkey, id, sig): &Owned) -> Claim<'_> {
        Claim { pubkey, id, sig }
    }

    fn verdicts(claims: &[Owned]) -> Vec<bool> {
        check_all(&claims.iter().map(claim).collect::<Vec<_>>())
    }

    /// What libsecp256k1 says.
    fn expected(claims: &[Owned]) -> Vec<bool> {
        claims.iter().map(|(pubkey, id, sig)| check_signature(pubkey, id, sig)).collect()
    }

    /// A value that is out of range or on no point, in the place of one that was fine.
    fn odd_bytes() -> impl Strategy<Value = [u8; 32]> {
        let field = "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f";
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        // On no point (BIP-340, test vectors 5 and 11), and the generator's x.
        let no_key = "eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34";
        let no_r = "4a298dacae57395a15d0795ddbfd1dcb564da82b0f269bc70a74f8220429ba1d";
        let generator = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        let of_hex = |text| hex::decode(text).unwrap().try_into().unwrap();
        prop_oneof![
            prop::sample::select([field, order, no_key, no_r, generator].map(of_hex).to_vec()),
            Just([0; 32]),
            Just([0xff; 32]),
            any::<[u8; 32]>(),
        ]
    }

    fn maybe_false_claim() -> impl Strategy<Value = Owned> {
        // Few authors and messages, so that keys, signatures and whole claims come twice.
        (0..4u8, 0..6u8, 0..20u8, odd_bytes()).prop_map(|(author, message, change, odd)| {
            let mut claim = signed(author, message);
            match change {
                0 => claim.0.0 = odd,
                1 => claim.1.0 = odd,
                2 => claim.2.0[..32].copy_from_slice(&odd),
                3 => claim.2.0[32..].copy_from_slice(&odd),
                4 => claim.2.0[usize::from(odd[0]) % 64] ^= 1 << (odd[1] % 8),
                5 => claim.0 = signed(author + 1, message).0,
                6 => claim.2 = negated(claim.2),
                _ => {}
            }
            claim
        })
    }

    /// The same R with -s: what a signature with odd y would be.
    fn negated(sig: Signature) -> Signature {
        let s = -scalar(&sig.0[32..]).unwrap();
        let mut sig = sig;
        sig.0[32..].copy_from_slice(&s.to_bytes());
        sig
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_batch_says_of_each_what_libsecp256k1_says(
            claims in vec(maybe_false_claim(), 0..80)
        ) {
            prop_assert_eq!(verdicts(&claims), expected(&claims));
        }

        #[test]
        fn one_by_one_says_what_libsecp256k1_says(one in maybe_false_claim()) {
            prop_assert_eq!(vec![check(claim(&one))], expected(&[one]));
        }

        #[test]
        fn digits_of_any_width_make_up_the_sum(
            factors in vec(any::<[u8; 32]>(), 1..6),
            width in 2..10usize,
        ) {
            let mut sum = Sum::of_width(width);
            let mut total = Scalar::ZERO;
            for factor in &factors {
                let factor = <Scalar as Reduce<FieldBytes>>::reduce(&(*factor).into());
                sum.add(Point::generator(), &little_endian(&factor));
                total += factor;
            }
            sum.add(Point::generator(), &little_endian(&-total));
            prop_assert!(sum.vanishes());
        }
    }

    #[test]
    fn the_false_ones_are_found_among_many() {
        let mut claims: Vec<Owned> = (0..=255).map(|number| signed(number % 7, number)).collect();
        assert_eq!(verdicts(&claims), vec![true; 256]);
        claims[3].2.0[63] ^= 1;
        claims[200].1.0[0] ^= 1;
        let verdicts = verdicts(&claims);
        let wrong: Vec<usize> = (0..256).filter(|place| !verdicts[*place]).collect();
        assert_eq!(wrong, [3, 200]);
    }

    #[test]
    fn errors_that_cancel_out_are_found() {
        // s of one is too large by as much as the other's is too small.
        let mut claims: Vec<Owned> = (0..20).map(|number| signed(number, number)).collect();
        let shift = Scalar::from(5u64);
        for (place, shift) in [(4, shift), (9, -shift)] {
            let s = scalar(&claims[place].2.0[32..]).unwrap() + shift;
            claims[place].2.0[32..].copy_from_slice(&s.to_bytes());
        }
        let expected: Vec<bool> = (0..20).map(|place| place != 4 && place != 9).collect();
        assert_eq!(verdicts(&claims), expected);
    }

    #[test]
    fn points_that_are_equal_or_opposite_are_added_right() {
        let generator = Point::generator();
        let mut buckets = [
            vec![generator, generator],
            vec![generator, generator.negative()],
            vec![generator, generator, generator.negative()],
            vec![generator; 4],
        ];
        add_up(&mut buckets);
        let sums = buckets.map(|bucket| bucket.first().map(|point| point.to_affine()));
        let times =
            |number: u64| Some((ProjectivePoint::GENERATOR * Scalar::from(number)).to_affine());
        assert_eq!(sums, [times(2), None, times(1), times(4)]);
    }

    #[test]
    fn the_vectors_of_bip_340_are_judged_as_it_says() {
        let claims = BIP_340.map(|(pubkey, message, sig, _)| {
            let message = hex::decode(message).unwrap().try_into().unwrap();
            (pubkey.parse().unwrap(), EventId(message), sig.parse().unwrap())
        });
        let expected = BIP_340.map(|(.., is_valid)| is_valid);
        assert_eq!(verdicts(&claims), expected);
        assert_eq!(claims.each_ref().map(|one| check(claim(one))), expected);
        assert_eq!(self::expected(&claims), expected);
    }

    /// The published test vectors with messages of 32 bytes: key, message, signature, verdict.
    #[rustfmt::skip]
    const BIP_340: [(&str, &str, &str, bool); 15] = [
        ("f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9", "0000000000000000000000000000000000000000000000000000000000000000", "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca821525f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0", true),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "6896bd60eeae296db48a229ff71dfe071bde413e6d43f917dc8dcf8c78de33418906d11ac976abccb20b091292bff4ea897efcb639ea871cfa95f6de339e4b0a", true),
        ("dd308afec5777e13121fa72b9cc1b7cc0139715309b086c960e18fd969774eb8", "7e2d58d8b3bcdf1abadec7829054f90dda9805aab56c77333024b9d0a508b75c", "5831aaeed7b44bb74e5eab94ba9d4294c49bcf2a60728d8b4c200f50dd313c1bab745879a5ad954a72c45a91c3a51d3c7adea98d82f8481e0e1e03674a6f3fb7", true),
        ("25d1dff95105f5253c4022f628a996ad3a0d95fbf21d468a1b33f8c160d8f517", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "7eb0509757e246f19449885651611cb965ecc1a187dd51b64fda1edc9637d5ec97582b9cb13db3933705b32ba982af5af25fd78881ebb32771fc5922efc66ea3", true),
        ("d69c3509bb99e412e68b0fe8544e72837dfa30746d8be2aa65975f29d22dc7b9", "4df3c3f68fcc83b27e9d42c90431a72499f17875c81a599b566c9889b9696703", "00000000000000000000003b78ce563f89a0ed9414f5aa28ad0d96d6795f9c6376afb1548af603b3eb45c9f8207dee1060cb71c04e80f593060b07d28308d7f4", true),
        ("eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "6cff5c3ba86c69ea4b7376f31a9bcb4f74c1976089b2d9963da2e5543e17776969e89b4c5564d00349106b8497785dd7d1d713a8ae82b32fa79d5f7fc407d39b", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "fff97bd5755eeea420453a14355235d382f6472f8568a18b2f057a14602975563cc27944640ac607cd107ae10923d9ef7a73c643e166be5ebeafa34b1ac553e2", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "1fa62e331edbc21c394792d2ab1100a7b432b013df3f6ff4f99fcb33e0e1515f28890b3edb6e7189b630448b515ce4f8622a954cfe545735aaea5134fccdb2bd", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "6cff5c3ba86c69ea4b7376f31a9bcb4f74c1976089b2d9963da2e5543e177769961764b3aa9b2ffcb6ef947b6887a226e8d7c93e00c5ed0c1834ff0d0c2e6da6", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "0000000000000000000000000000000000000000000000000000000000000000123dda8328af9c23a94c1feecfd123ba4fb73476f0d594dcb65c6425bd186051", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "00000000000000000000000000000000000000000000000000000000000000017615fbaf5ae28864013c099742deadb4dba87f11ac6754f93780d5a1837cf197", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "4a298dacae57395a15d0795ddbfd1dcb564da82b0f269bc70a74f8220429ba1d69e89b4c5564d00349106b8497785dd7d1d713a8ae82b32fa79d5f7fc407d39b", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f69e89b4c5564d00349106b8497785dd7d1d713a8ae82b32fa79d5f7fc407d39b", false),
        ("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "6cff5c3ba86c69ea4b7376f31a9bcb4f74c1976089b2d9963da2e5543e177769fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", false),
        ("fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc30", "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89", "6cff5c3ba86c69ea4b7376f31a9bcb4f74c1976089b2d9963da2e5543e17776969e89b4c5564d00349106b8497785dd7d1d713a8ae82b32fa79d5f7fc407d39b", false),
    ];
}
