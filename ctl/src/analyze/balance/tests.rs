use super::*;

#[test]
fn a_lasting_excess_is_found_with_its_begin_and_end() {
    let noisy = |n: usize| (n * 7919 % 13) as f64 / 13.0 * 0.02 - 0.01;
    let late = |n: usize| if (40..80).contains(&n) { 0.2 } else { 0.0 };
    let excess: Vec<_> = (0..120).map(|n| Some(noisy(n) + late(n))).collect();
    let (from, until, mean) = stretch(&excess).expect("found");
    assert!((39..=41).contains(&from) && (79..=81).contains(&until), "{from} {until}");
    assert!((0.18..0.22).contains(&mean), "{mean}");
}

#[test]
fn noise_and_single_windows_are_nothing() {
    let noise: Vec<_> = (0..200).map(|n: usize| Some((n * 7919 % 101) as f64 / 101.0 * 0.4 - 0.2)).collect();
    assert_eq!(stretch(&noise), None);
    let now_and_then: Vec<_> =
        (0..200).map(|n: usize| Some(if n.is_multiple_of(8) { 0.6 } else { 0.0 })).collect();
    assert_eq!(stretch(&now_and_then), None);
    assert_eq!(stretch(&[]), None);
    assert_eq!(stretch(&[None, None]), None);
}
