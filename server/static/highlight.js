// Code in colours: words, strings, numbers and comments, told apart without knowing a language well.

const SLASHES = ["c", "cpp", "cs", "css", "dart", "go", "java", "javascript", "js", "jsx", "json", "jsonc", "kotlin", "php", "rust", "rs", "scala", "scss", "swift", "ts", "tsx", "typescript", "zig", "proto", "metal"];
const HASHES = ["bash", "sh", "shell", "zsh", "python", "py", "ruby", "rb", "yaml", "yml", "toml", "perl", "r", "make", "makefile", "dockerfile", "nix", "elixir", "php", "ini", "conf"];
const DASHES = ["sql", "lua", "haskell", "hs", "ada", "elm"];
const PLAIN = ["", "text", "txt", "plain", "plaintext", "console", "output", "log", "markdown", "md"];

const WORDS = new Set(
  ("abstract and as assert async await begin bool boolean break case catch char class const continue crate def default " +
    "defer del do done double echo elif else elseif end enum esac except export extends extern false fi final finally float " +
    "fn for foreach from func function global go goto guard if impl implements import in include inline instanceof int " +
    "interface internal is lambda let local long loop match mod module move mut namespace new nil none not null of or " +
    "override package pass private protected protocol pub public raise readonly ref return self short signed static " +
    "struct super switch template then this throw throws trait true try type typedef typeof undefined union unless " +
    "unsafe unsigned until use using val var virtual void when where while with yield select insert update delete " +
    "create table join group order by having limit values into set distinct on inner left right outer").split(" "),
);
const STRINGS = /"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`/.source;
const REST = /\b(?:0x[\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b|[A-Za-z_]\w*/.source;
const LONGEST = 20_000; // characters; longer code stays plain

/** `text` in pieces {kind: null | "comment" | "string" | "number" | "word" | "call", text}. */
export function highlighted(text, language) {
  const name = language.toLowerCase();
  if (PLAIN.includes(name) || text.length > LONGEST) return [{ kind: null, text }];
  const comments = [];
  if (SLASHES.includes(name)) comments.push(/\/\/[^\n]*|\/\*[\s\S]*?\*\//.source);
  if (HASHES.includes(name)) comments.push(/(?<![$\w{])#[^\n]*/.source);
  if (DASHES.includes(name)) comments.push(/--[^\n]*/.source);
  if (["html", "xml", "svg"].includes(name)) comments.push(/<!--[\s\S]*?-->/.source);
  const comment = comments.length ? comments.join("|") : "(?!)";
  const pattern = new RegExp(`(${comment})|(${STRINGS})|(${REST})`, "g");
  const pieces = [];
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index > end) pieces.push({ kind: null, text: text.slice(end, found.index) });
    end = found.index + found[0].length;
    pieces.push({ kind: kindOf(found, text[end], name), text: found[0] });
  }
  if (end < text.length) pieces.push({ kind: null, text: text.slice(end) });
  return pieces;
}

function kindOf([word, comment, string], next, language) {
  if (comment !== undefined) return "comment";
  if (string !== undefined) return "string";
  if (/^\d/.test(word)) return "number";
  if (WORDS.has(language === "sql" ? word.toLowerCase() : word)) return "word";
  if (word === "True" || word === "False" || word === "None") return "word";
  return next === "(" ? "call" : null;
}
