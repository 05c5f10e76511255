//! Bits, as NIP-13 and NIP-45 count them.

/// Bits that are 0 before the first that is not.
pub fn leading_zeros(bytes: &[u8]) -> u32 {
    let full = bytes.iter().take_while(|byte| **byte == 0).count();
    8 * full as u32 + bytes.get(full).map_or(0, |byte| byte.leading_zeros())
}
