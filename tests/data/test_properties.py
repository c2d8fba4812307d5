"""What holds of prompts, sentences, labels and manifests, whatever Hypothesis thinks of."""

import json
import string

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medclip_helpers.data import (
    LABELS,
    combine_labels,
    encode_labels,
    label_manifest,
    read_manifest,
    read_sentences,
    split_report,
)
from medclip_helpers.data.sentences import labels_by_sentence, normalize_sentence
from medclip_helpers.prompts import check_class_prompts, generate_class_prompts, load_class_prompts

# The same examples each time, and no more time for a slow machine than for a fast one.
thorough = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
quick = settings(thorough, max_examples=50)

# --- prompts ------------------------------------------------------------------------------------

# What a text file can hold, and every YAML or JSON parser must give back.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)
said = texts.filter(str.strip)
class_prompts = st.dictionaries(said, st.lists(said, min_size=1, max_size=4), min_size=1)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@thorough
@given(class_prompts)
def test_prompts_come_back_from_a_file_as_they_were(tmp_path, prompts):
    (tmp_path / "a.json").write_text(json.dumps(prompts), encoding="utf-8")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(prompts, allow_unicode=True), encoding="utf-8")
    assert load_class_prompts(tmp_path / "a.json") == prompts
    assert load_class_prompts(tmp_path / "a.yaml") == prompts


@thorough
@given(class_prompts | anything)
def test_prompts_are_taken_as_they_are_or_refused(prompts):
    try:
        checked = check_class_prompts(prompts, "here")
    except ValueError as error:
        assert str(error).startswith("here: ")
    else:
        assert checked == prompts
        assert all(sentence.strip() for sentences in checked.values() for sentence in sentences)


@thorough
@given(st.sampled_from([".json", ".yaml"]), st.binary() | texts.map(str.encode))
@example(".json", b"[" * 100_000)
@example(".yaml", b"[" * 2_000)
@example(".yaml", b"? [a]\n: [b]")
@example(".yaml", b"a: 2001-99-99")
@example(".yaml", b"a: &a [*a]")
@example(".yaml", b"<<: 1")
@example(".yaml", b"!!python/object/apply:os.getcwd []")
def test_a_file_that_holds_no_prompts_is_named(tmp_path, suffix, content):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    try:
        assert load_class_prompts(file)
    except ValueError as error:
        assert str(file) in str(error)


@thorough
@given(class_prompts, st.integers(1, 5), st.integers())
def test_a_draw_is_a_part_without_repeats_and_depends_on_the_seed_alone(tmp_path, prompts, n, seed):
    prompts = {name: sorted(set(sentences)) for name, sentences in prompts.items()}
    file = tmp_path / "a.json"
    file.write_text(json.dumps(prompts), encoding="utf-8")
    drawn = load_class_prompts(file, n, seed)
    assert drawn.keys() == prompts.keys()
    for name, sentences in drawn.items():
        assert len(sentences) == len(set(sentences)) == min(n, len(prompts[name]))
        assert set(sentences) <= set(prompts[name])
    first = next(iter(prompts))  # whatever other classes there are
    file.write_text(json.dumps({first: prompts[first]}), encoding="utf-8")
    assert load_class_prompts(file, n, seed)[first] == drawn[first]


# --- sentences ----------------------------------------------------------------------------------

reports = st.text(string.ascii_letters + string.digits + " .,:;-/_'\n\ufffdéİß1.", max_size=200)
reports |= st.text(max_size=200)


@thorough
@given(reports, st.integers(1, 6))
def test_sentences_are_ascii_normal_and_long_enough(report, shortest):
    sentences = split_report(report, shortest)
    for sentence in sentences:
        assert sentence.isascii() and len(sentence.split()) >= shortest
        assert normalize_sentence(sentence) == sentence
    assert [s for s in split_report(report, 1) if len(s.split()) >= shortest] == sentences


@thorough
@given(reports.map(lambda report: "".join(c for c in report if not c.isdigit())))
def test_splitting_loses_no_word_of_a_report_without_numbers(report):
    def words(text):
        return [word for word in text.split() if word.isalpha()]

    assert words(" ".join(split_report(report, 1))) == words(normalize_sentence(report))


# --- labels -------------------------------------------------------------------------------------

states = st.sampled_from([1.0, 0.0, -1.0, np.nan])
label_rows = arrays(np.float32, st.tuples(st.integers(1, 5), st.just(len(LABELS))), elements=states)


@thorough
@given(label_rows, st.randoms())
def test_combined_labels_depend_on_which_sentences_there_are_alone(labels, chance):
    combined = combine_labels(labels)
    assert combined.shape == (len(LABELS),)
    order = list(range(len(labels))) + [0]  # one sentence twice, and all in another order
    chance.shuffle(order)
    np.testing.assert_array_equal(combine_labels(labels[order]), combined)
    np.testing.assert_array_equal(combine_labels(combined), combined)


@thorough
@given(label_rows)
def test_a_finding_in_one_sentence_is_a_finding_of_the_report(labels):
    combined, findings = combine_labels(labels), slice(1, None)
    present = (labels[:, findings] == 1).any(axis=0)
    assert ((combined[findings] == 1) == present).all()
    mentioned = ~np.isnan(labels[:, findings]).all(axis=0)
    assert (~np.isnan(combined[findings]) == mentioned).all()


@thorough
@given(label_rows, st.floats(-2, 2, width=32), st.floats(-2, 2, width=32))
def test_encoded_labels_are_numbers_place_by_place(labels, absent, uncertain):
    before = labels.copy()
    encoded = encode_labels(labels, absent, uncertain)
    meaning = {1.0: 1.0, 0.0: absent, -1.0: uncertain}
    expected = [[meaning.get(float(value), 0.0) for value in row] for row in labels]
    np.testing.assert_array_equal(encoded, np.array(expected, np.float32))
    np.testing.assert_array_equal(labels, before)  # the argument is left alone


# --- tables -------------------------------------------------------------------------------------

sentences = st.lists(st.text("abc .", min_size=1).filter(str.strip), min_size=1, unique=True)


@quick
@given(sentences, st.data())
def test_a_sentence_table_comes_back_from_its_file(tmp_path, texts, data):
    shape = (len(texts), len(LABELS))
    labels = data.draw(arrays(np.float32, shape, elements=states))
    table = pd.DataFrame(labels, columns=LABELS).assign(Reports=texts)
    table.to_csv(tmp_path / "a.csv", index=False)
    read = read_sentences(tmp_path / "a.csv")
    assert read["Reports"].tolist() == texts
    np.testing.assert_array_equal(read[LABELS].to_numpy(), labels)
    by_sentence = labels_by_sentence(read)
    assert by_sentence.keys() == {normalize_sentence(text) for text in texts}


@quick
@given(sentences, st.data())
def test_a_class_prompt_is_positive_for_its_class_alone(texts, data):
    shape = (len(texts), len(LABELS))
    labels = data.draw(arrays(np.float32, shape, elements=states))
    table = pd.DataFrame(labels, columns=LABELS).assign(Reports=texts)
    name = data.draw(st.sampled_from(LABELS))
    expected = {
        text
        for text, row in zip(texts, labels, strict=True)
        if row[LABELS.index(name)] == 1 and (row == 1).sum() == 1
    }
    if expected:
        assert set(generate_class_prompts(table, [name], n=None)[name]) == expected
    else:
        with pytest.raises(ValueError, match=f"no sentence is positive for '{name}' alone"):
            generate_class_prompts(table, [name])


@quick
@given(st.lists(reports, min_size=1, max_size=4))
def test_a_manifest_labelled_from_all_its_sentences_has_their_labels(reports):
    every = sorted({sentence for report in reports for sentence in split_report(report, 1)})
    present = pd.DataFrame(1.0, range(len(every)), LABELS).assign(Reports=every)
    blank = pd.DataFrame(np.nan, range(len(reports)), LABELS).assign(report=reports)
    labelled = label_manifest(blank, present)
    has_sentence = [bool(split_report(report, 1)) for report in reports]
    assert (labelled["Edema"] == 1).tolist() == has_sentence
    assert labelled["report"].tolist() == reports and blank[LABELS].isna().all(axis=None)


cells = st.sampled_from(["1", "0", "-1", "", "1.0", "-0", "2", "yes", "nan", "inf", "1e400", "١"])


@quick
@given(st.lists(cells, min_size=1, max_size=5), st.sampled_from(LABELS))
def test_each_wrong_label_of_a_manifest_is_named_with_its_place(tmp_path, values, label):
    table = pd.DataFrame("", range(len(values)), LABELS)
    table[label] = values
    table = table.assign(imgpath="a.png", subject_id=range(len(values)), report="x")
    file = tmp_path / "a.csv"
    table.to_csv(file, index=False)
    good = {"1", "0", "-1", "", "1.0", "-0", "nan"}  # pandas reads "nan" as blank
    wrong = [row for row, value in enumerate(values, 1) if value not in good]
    try:
        read_manifest(file, check_images=False)
    except ValueError as error:
        assert wrong
        for row in range(1, len(values) + 1):
            assert (f"{file}, row {row}, column {label!r}:" in str(error)) == (row in wrong)
    else:
        assert not wrong


@thorough
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"")
@example(b"a,b\n1,2,3\n")
@example(b'"')
@example(b"\xff\xfe\x00")
def test_a_file_that_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    for read in (read_manifest, read_sentences):
        with pytest.raises(ValueError, match="a.csv"):
            read(tmp_path / "a.csv")
