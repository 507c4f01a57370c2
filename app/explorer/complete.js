// Completion in the query box: functions, keywords and metrics; label names in selectors and groupings; values in quotes.

const KEYWORDS = ["by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "and", "or", "unless", "atan2"];
const MAX_OFFERED = 50;
const KEPT_MS = 30000; // how long an answer about names serves further keystrokes
const LEGACY_NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;

// What stands before the cursor, or null: {kind: "word" | "label" | "value", word: what is typed of it, metric and label where they are known}.
export function contextAt(text, at) {
  const before = text.slice(0, at);
  let open = -1, quote = "";
  for (let i = 0; i < before.length; i++) {
    const c = before[i];
    if (quote) {
      if (c === "\\" && quote !== "`") i++;
      else if (c === quote) quote = "";
    } else if (c === '"' || c === "'" || c === "`") quote = c;
    else if (c === "{") open = i;
    else if (c === "}") open = -1;
  }
  if (open >= 0) {
    const metric = (/([a-zA-Z_:][a-zA-Z0-9_:]*)\s*$/.exec(before.slice(0, open)) || [])[1] || "";
    const inside = before.slice(open + 1);
    if (quote) {
      const value = /([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)\s*["']([^"'\\]*)$/.exec(inside);
      return value && { kind: "value", metric, label: value[1], word: value[2] };
    }
    const name = /(?:^|,)\s*([a-zA-Z0-9_]*)$/.exec(inside);
    return name && { kind: "label", metric, word: name[1] };
  }
  if (quote || /\[[^\]]*$/.test(before)) return null;
  const grouping = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)$/i.exec(before);
  if (grouping) return { kind: "label", metric: null, word: /([a-zA-Z0-9_]*)$/.exec(grouping[1])[1] };
  const word = /(?:^|[^a-zA-Z0-9_:.])([a-zA-Z_:][a-zA-Z0-9_:]*)$/.exec(before);
  return word && { kind: "word", word: word[1] };
}

// Beginnings before middles, short before long; -1: does not match.
function rank(text, word) {
  const i = text.toLowerCase().indexOf(word.toLowerCase());
  return i < 0 ? -1 : (i === 0 ? 0 : 1000) + text.length;
}

// What is put into the query for a choice, given the text that follows the cursor.
function inserted({ kind, text }, after) {
  if (kind === "function") return after.startsWith("(") ? text : `${text}(`;
  if (kind === "value") return text.replace(/[\\"]/g, "\\$&") + (/^["']/.test(after) ? "" : '"');
  if (LEGACY_NAME.test(text)) return text;
  return kind === "metric" ? `{${JSON.stringify(text)}}` : JSON.stringify(text);
}

/*
 * Completion of a text area in a list. functions: names; askNames(path, params): a promise of an array of names; changed(): called after an
 * accepted choice.
 */
export class Completion {
  constructor(box, list, functions, askNames, changed) {
    Object.assign(this, { box, list, functions, askNames, changed });
    this.kept = new Map(); // path and parameters -> {at, names}
    this.asked = 0;        // answers to older keystrokes are dropped
    this.hide();
  }

  forget() { this.kept.clear(); }

  names(path, match) {
    const key = `${path} ${match}`;
    const old = this.kept.get(key);
    if (old && performance.now() - old.at < KEPT_MS) return old.names;
    if (this.kept.size > 50) this.kept.clear();
    const names = this.askNames(path, match ? { "match[]": match } : {}).catch(() => { this.kept.delete(key); return []; });
    this.kept.set(key, { at: performance.now(), names });
    return names;
  }

  metrics() { return this.names("label/__name__/values", ""); }

  async candidates(c) {
    const of = (names, kind) => names.map(text => ({ text, kind }));
    if (c.kind === "value") return of(await this.names(`label/${c.label}/values`, c.metric), "value");
    if (c.kind === "label") {
      // A grouping is about the metrics that the query names, wherever they stand.
      let metric = c.metric;
      if (metric === null) {
        const all = new Set(await this.metrics());
        metric = (this.box.value.match(/[a-zA-Z_:][a-zA-Z0-9_:]*/g) || []).find(w => all.has(w)) || "";
      }
      return of((await this.names("labels", metric)).filter(l => l !== "__name__"), "label");
    }
    return [...of(this.functions, "function"), ...of(KEYWORDS, "keyword"), ...of(await this.metrics(), "metric")];
  }

  async update() {
    const mine = ++this.asked, at = this.box.selectionStart;
    const c = contextAt(this.box.value, at);
    if (!c) return this.hide();
    const all = await this.candidates(c);
    if (mine !== this.asked) return;
    this.offered = all.map(o => ({ ...o, rank: rank(o.text, c.word), from: at - c.word.length, to: at }))
      .filter(o => o.rank >= 0 && o.text !== c.word)
      .sort((a, b) => a.rank - b.rank || (a.text < b.text ? -1 : 1)).slice(0, MAX_OFFERED);
    this.choice = -1;
    this.show();
  }

  show() {
    this.list.replaceChildren(...this.offered.map((o, i) => {
      const li = document.createElement("li"), kind = document.createElement("small");
      li.id = `completion-${i}`;
      li.setAttribute("role", "option");
      li.setAttribute("aria-selected", String(i === this.choice));
      kind.textContent = o.kind;
      li.append(o.text, kind);
      li.onmousedown = e => { e.preventDefault(); this.accept(i); };
      return li;
    }));
    this.list.hidden = !this.offered.length;
    this.box.setAttribute("aria-expanded", String(!this.list.hidden));
    if (this.choice < 0) return this.box.removeAttribute("aria-activedescendant");
    this.box.setAttribute("aria-activedescendant", `completion-${this.choice}`);
    this.list.children[this.choice].scrollIntoView({ block: "nearest" });
  }

  hide() {
    this.asked++;
    this.offered = [];
    this.choice = -1;
    this.show();
  }

  accept(i) {
    const o = this.offered[i], text = inserted(o, this.box.value.slice(o.to));
    this.hide();
    this.box.focus();
    this.box.setSelectionRange(o.from, o.to);
    // As if typed, so that undo takes it back; else at least put there.
    if (!document.execCommand("insertText", false, text)) this.box.setRangeText(text, o.from, o.to, "end");
    this.hide();
    this.changed();
  }

  // Whether the key was for the list: arrows choose, Enter accepts the choice, Tab also the first one without a choice, Escape closes.
  key(e) {
    if (!this.offered.length) return false;
    const n = this.offered.length;
    if (e.key === "ArrowDown") this.choice = (this.choice + 1) % n;
    else if (e.key === "ArrowUp") this.choice = (this.choice <= 0 ? n : this.choice) - 1;
    else if (e.key === "Enter" && this.choice >= 0) return this.accept(this.choice), true;
    else if (e.key === "Tab" && !e.shiftKey) return this.accept(Math.max(this.choice, 0)), true;
    else if (e.key === "Escape") return this.hide(), true;
    else return false;
    this.show();
    return true;
  }
}
