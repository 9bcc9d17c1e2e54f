import assert from "node:assert/strict";
import test from "node:test";

import { append, chooseVersion, chosenPath, discard, history, leaf, newConversation, ROOT, titleOf, versions } from "../../../server/static/tree.js";

const user = (content) => ({ role: "user", content });
const model = (content) => ({ role: "assistant", content });
const shown = (conversation) => chosenPath(conversation).map(({ content }) => content);

function two() {
  const conversation = newConversation({ effort: "low" }, 0);
  const first = append(conversation, ROOT, user("a"));
  const answer = append(conversation, first.id, model("A"));
  const second = append(conversation, answer.id, user("b"));
  return { conversation, first, answer, second, last: append(conversation, second.id, model("B")) };
}

test("a path", () => {
  const { conversation, second, last } = two();
  assert.deepEqual(shown(conversation), ["a", "A", "b", "B"]);
  assert.equal(leaf(conversation), last.id);
  assert.deepEqual(history(conversation, second.id).map(({ content }) => content), ["a", "A", "b"]);
});

test("editing branches, and both branches stay", () => {
  const { conversation, first } = two();
  const edited = append(conversation, ROOT, user("a2"));
  append(conversation, edited.id, model("A2"));
  assert.deepEqual(shown(conversation), ["a2", "A2"]);
  assert.deepEqual(versions(conversation, edited.id), { index: 1, count: 2 });
  assert.equal(chooseVersion(conversation, edited.id, -1), first.id);
  assert.deepEqual(shown(conversation), ["a", "A", "b", "B"]);
  assert.equal(chooseVersion(conversation, first.id, -1), first.id);
  chooseVersion(conversation, first.id, 1);
  assert.deepEqual(shown(conversation), ["a2", "A2"]);
});

test("a branch remembers its own choice", () => {
  const { conversation, answer, second } = two();
  append(conversation, second.id, model("B2"));
  const other = append(conversation, answer.id, user("c"));
  assert.deepEqual(shown(conversation), ["a", "A", "c"]);
  chooseVersion(conversation, other.id, -1);
  assert.deepEqual(shown(conversation), ["a", "A", "b", "B2"]);
});

test("what is discarded is gone with all that followed", () => {
  const { conversation, answer, first } = two();
  discard(conversation, answer.id);
  assert.deepEqual(shown(conversation), ["a"]);
  assert.deepEqual(Object.keys(conversation.nodes), [ROOT, first.id]);
  const one = append(conversation, first.id, model("X"));
  const failed = append(conversation, first.id, model(""));
  discard(conversation, failed.id);
  assert.equal(leaf(conversation), one.id);
});

test("a copy through the store is the same tree", () => {
  const { conversation } = two();
  assert.deepEqual(chosenPath(structuredClone(conversation)), chosenPath(conversation));
});

test("titles", () => {
  assert.equal(titleOf(newConversation({})), "New conversation");
  const conversation = newConversation({});
  append(conversation, ROOT, user("  What\n is   this? "));
  assert.equal(titleOf(conversation), "What is this?");
  conversation.title = "Mine";
  assert.equal(titleOf(conversation), "Mine");
  const long = newConversation({});
  append(long, ROOT, user("word ".repeat(40)));
  assert.ok(titleOf(long).length <= 60 && titleOf(long).endsWith("…"));
});
