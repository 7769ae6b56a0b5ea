"use strict";
// Every text of an episode goes into the page as a text node or an attribute's value: nothing here reads markup.

// A page that cannot be laid out says so, and is not just blank.
addEventListener("error", (event) => {
  if (document.getElementById("page").childElementCount) return;
  const said = `This page could not be laid out: ${event.message}. Please report it, with the version of chatenv.`;
  document.body.prepend(el("p", "broken", said));
});

function el(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  for (const child of children) if (child !== null && child !== undefined && child !== "") node.append(child);
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function link(href, cls, ...children) {
  const node = el("a", cls, ...children);
  node.setAttribute("href", href);
  return node;
}

function badge(level, ...children) { return el("span", "badge " + level, ...children); }

// What cannot be seen, or turns the text around it: controls, formats, private use, halves of pairs, line separators.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}\u00a0\u3164\uffa0\ufffc]/gu;
const JOINERS = "\u200c\u200d";

function codePoint(one) { return "U+" + one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0"); }

// Appends a text; what cannot be seen is spelt out. Joiners inside of a word or an emoji are part of it.
function say(node, text, keep = "\n\t") {
  let from = 0;
  for (const found of text.matchAll(UNSEEN)) {
    const one = found[0];
    if (keep.includes(one) || (JOINERS.includes(one) && found.index > 0 && text.length > 2)) continue;
    if (found.index > from) node.append(text.slice(from, found.index));
    node.append(el("span", "odd", codePoint(one)));
    from = found.index + one.length;
  }
  if (from < text.length) node.append(text.slice(from));
  return node;
}

function textOf(text, cls = "") { return say(el("bdi", "text " + cls), String(text)); }

function count(number, what) { return number.toLocaleString("en") + " " + what + (number === 1 ? "" : "s"); }

function told(number, digits = 3) {
  if (number === null || number === undefined) return "–";
  if (!Number.isFinite(number)) return String(number);
  const rounded = Number(number.toFixed(digits));
  return rounded === 0 && number !== 0 ? number.toExponential(1) : String(rounded).replace("-", "−");
}

function signed(number) { return (number > 0 ? "+" : "") + told(number); }

// Asks for the data of a page that follows a server, and shows it where it has changed. Data without an address stay.
function follow(href, first, show) {
  if (!href) return;
  let last = first;
  const ask = async () => {
    try {
      const answer = await fetch(href, { cache: "no-store" });
      const text = await answer.text();
      document.body.classList.toggle("stale", !answer.ok);
      if (answer.ok && text !== last) {
        const data = JSON.parse(last = text);
        show(data);
        if (!(data.view || data).data_href) return;
      }
    } catch {
      document.body.classList.add("stale");
    }
    setTimeout(ask, 2000);
  };
  setTimeout(ask, 2000);
}
