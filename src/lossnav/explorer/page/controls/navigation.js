// @ts-check
// The breadcrumb of places and the bookmarks.

/** @import { Bookmark, Session } from "../state/messages.js" */

import { byId, el, replace } from "../base/dom.js";

/** @param {Session} session @param {(place: number) => void} go */
export function showPlaces(session, go) {
  const { places } = session;
  byId("places").hidden = places.length < 2;
  replace(byId("places"), el("ol", {}, places.map(({ number, words }) =>
    el("li", {}, el("button", { type: "button", class: "quiet", "aria-current": number === session.place ? "true" : null, onclick: () => go(number) }, words || `place ${number}`)))));
}

/** @param {Bookmark[]} bookmarks @param {{ open: (view: Bookmark["view"]) => void, remove: (name: string) => void }} act */
export function showBookmarks(bookmarks, act) {
  const items = bookmarks.map(({ name, view }) =>
    el("li", {},
      el("button", { type: "button", class: "quiet", onclick: () => act.open(view) }, name),
      el("button", { type: "button", class: "close", "aria-label": `Remove the bookmark ${name}`, onclick: () => act.remove(name) }, "×")));
  replace(byId("bookmarks"), items.length ? items : el("li", { class: "note" }, "None yet."));
}
