//! Reading messages allocates in proportion to its input, whatever numbers that claims.

use allocation_counter::measure;
use polity_crdt::sync::{decode_answer, decode_request};
use polity_crdt::{AwSet, Crdt, Delta, MvRegister, OrMap, PnCounter};

type Deep = OrMap<u8, OrMap<u8, PnCounter>>;

/// For each byte of input. A register of one key in a delta takes about a hundred bytes in memory and five in a message; all
/// that is read is written again, buffers that grow are allocated twice over, and checks sort the dots.
const MOST_PER_BYTE: u64 = 160;

fn read_all(bytes: &[u8]) {
    let _ = decode_request::<<AwSet<u8> as Crdt>::Delta>(bytes);
    let _ = decode_request::<<OrMap<u8, MvRegister<String>> as Crdt>::Delta>(bytes);
    let _ = decode_request::<<Deep as Crdt>::Delta>(bytes);
    let _ = decode_answer(bytes);
    let _ = <Deep as Crdt>::Delta::decode(bytes);
}

#[test]
fn reading_messages_allocates_in_proportion_to_its_input() {
    let numbers: [&[u8]; 5] = [
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xfc, 0xff, 0xff, 0xff, 0x0f],
        &[0x80, 0x80, 0x80, 0x80, 0x01],
        &[0xff, 0xff, 0x03],
        &[0x7f],
    ];
    for tag in 0..6 {
        for number in numbers {
            for at in 0..24 {
                for length in [0, 40, 400, 4_000, 40_000] {
                    for filler in [0, 1, 2, 4] {
                        let mut bytes = vec![1, tag, 0, 9, 0, 0, 0, 0, 0, 0, 0];
                        bytes.extend(std::iter::repeat_n(filler, at));
                        bytes.extend(number);
                        bytes.extend(std::iter::repeat_n(filler, length));
                        let allocated = measure(|| read_all(&bytes)).bytes_total;
                        let most = 5 * (4_096 + MOST_PER_BYTE * bytes.len() as u64);
                        assert!(allocated <= most, "{allocated} for {} bytes", bytes.len());
                    }
                }
            }
        }
    }
}
