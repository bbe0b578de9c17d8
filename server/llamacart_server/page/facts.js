// Facts as people write them, and as the server takes them.

/** Lines of a subject, a text and an object, or of JSON, as JSON Lines; says which line is wrong. */
export function factsOf(text) {
  const lines = text.split(/\r?\n/).map((line, i) => [line.trim(), i + 1]);
  const there = lines.filter(([line]) => line);
  const facts = there.map(([line, number]) => (isJson(line) ? line : fact(line, number)));
  if (!facts.length) throw new Error("Write a fact first.");
  return facts.join("\n");
}

function fact(line, number) {
  const parts = line.split("|").map((part) => part.trim());
  if (parts.length !== 3 || parts.includes("")) {
    throw new Error(`Line ${number} has not the form: subject | text with {} | how it goes on.`);
  }
  const [subject, prompt, object] = parts;
  if (prompt.split("{}").length !== 2) {
    throw new Error(`Line ${number}: ${JSON.stringify(prompt)} must hold {} once, where the subject stands.`);
  }
  return JSON.stringify({ subject, prompt, object });
}

function isJson(line) {
  if (!line.startsWith("{")) return false;
  try {
    JSON.parse(line);
    return true;
  } catch {
    // `{} | …` is neither; the server says what is wrong with other lines.
    return /^\{\s*"/.test(line);
  }
}
