//! How a canister reads its arguments, which anybody may have written.

use candid::{
    DecoderConfig,
    utils::{ArgumentDecoder, decode_args_with_config},
};

/// Decodes at a cost in proportion to the bytes. Without quotas a few bytes could announce a billion
/// empty values, in a list that is asked for or in a field that is skipped. An honest filter's cost
/// stays below 20 for each of its bytes.
pub fn decode_arguments<T: for<'a> ArgumentDecoder<'a>>(bytes: &[u8]) -> candid::Result<T> {
    let mut quota = DecoderConfig::new();
    quota.set_decoding_quota(100_000 + 50 * bytes.len());
    quota.set_skipping_quota(10_000);
    decode_args_with_config(bytes, &quota)
}
