use super::*;

#[test]
fn only_names_that_kubernetes_takes_get_into_addresses() {
    for good in ["llm", "n-1.rack7", "0", "a.b.c"] {
        assert_eq!(object_name(good), Some(good));
    }
    for bad in ["", "a/b", "../nodes/n1", "A", "a_b", "-a", "a-", "a..b", "a?b", "a b", ".", "é"] {
        assert_eq!(object_name(bad), None, "{bad:?}");
    }
    assert_eq!(object_name(&"a".repeat(254)), None);
    assert_eq!(label_value(&"a".repeat(64)), None);
}
