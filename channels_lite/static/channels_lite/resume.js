// A WebSocket that goes on where it was cut off, for consumers with `channels_lite.resume`.
//
//   const socket = new ResumingSocket("/ws/chat/");
//   socket.onmessage = (message) => show(message.text);
//
// What the two say to each other, in JSON:
//
// 1. The page connects to URL?after={"GROUP": "POSITION", ...}, the last that it has of each group.
// 2. For each group that the consumer joins it says {group, position, is_complete}: what comes now
//    follows this position.  If it is not complete, messages that the page has not are gone.
// 3. Each message of a group has its "group" and its "position".
// 4. To the text "ping" the consumer answers "pong".
//
// Positions are opaque: the same text is the same message, and nothing else follows from it.
"use strict";

class ResumingSocket {
  static PING = 25000; // ms of silence until the page asks whether the server is still there
  static TIMEOUT = 10000; // ms that an answer, or a new connection, may take
  static PAUSE = 500; // ms before the first attempt to reconnect, at most; doubled for each other
  static LONGEST_PAUSE = 30000; // ms
  static REMEMBERED = 1000; // positions of each group by which a repeated message is known

  // The page sets these.
  onmessage = () => {}; // (message): of a group, or what else the consumer sends
  onincomplete = () => location.reload(); // (group): the page has to load its state anew
  onopen = () => {};
  onclose = () => {}; // (event): cut off, and trying again; or over, by a code from 4000 on

  #url;
  #positions; // {group: position}
  #keep; // writes them into the storage
  #seen = new Map(); // group -> Set of positions
  #socket = null;
  #timer; // the only one: it waits for a connection, for silence, for an answer or for the pause
  #attempts = 0;
  #listeners = new AbortController();

  // `positions`: where a page starts that has kept none.  `storage`: sessionStorage or localStorage,
  // so that a page that is opened again goes on where it was; `key`: the name in there.
  constructor(url, { positions = {}, storage = null, key = `resume ${url}` } = {}) {
    this.#url = new URL(url, location.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#keep = () => storage?.setItem(key, JSON.stringify(this.#positions));
    let kept;
    try {
      kept = JSON.parse(storage.getItem(key));
    } catch {
      // There is no storage, or somebody else has written there.
    }
    this.#positions = { ...positions, ...kept };
    const { signal } = this.#listeners;
    const look = () => document.hidden || this.#wake();
    document.addEventListener("visibilitychange", look, { signal });
    addEventListener("online", () => this.#wake(), { signal });
    this.#connect();
  }

  // {group: position}, as of now.
  get positions() {
    return { ...this.#positions };
  }

  // Sends an object; without a connection it returns false, and sends nothing, also not later.
  send(content) {
    const isOpen = this.#socket?.readyState === WebSocket.OPEN;
    if (isOpen) this.#socket.send(JSON.stringify(content));
    return isOpen;
  }

  // Ends the connection for good.
  close() {
    this.#listeners.abort();
    clearTimeout(this.#timer);
    this.#drop();
  }

  #connect() {
    this.#drop();
    this.#url.searchParams.set("after", JSON.stringify(this.#positions));
    const socket = (this.#socket = new WebSocket(this.#url));
    const ifCurrent = (take) => (event) => socket === this.#socket && take(event);
    socket.onopen = ifCurrent(() => {
      this.#expectMessage();
      this.onopen();
    });
    socket.onmessage = ifCurrent((event) => this.#take(event.data));
    socket.onclose = ifCurrent((event) => this.#lose(event));
    this.#after(ResumingSocket.TIMEOUT, () => this.#lose());
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null; // whatever still comes of it does not count
    socket?.close();
  }

  #lose(event) {
    if (event?.code >= 4000) {
      this.close(); // the application's own word: to come back would not help
    } else {
      this.#drop();
      // Full jitter: pages that lost their server together do not all come back together.
      const longest = ResumingSocket.PAUSE * 2 ** this.#attempts++;
      const pause = Math.random() * Math.min(longest, ResumingSocket.LONGEST_PAUSE);
      this.#after(pause, () => this.#connect());
    }
    this.onclose(event);
  }

  // The network is back, or somebody looks at the page again.
  #wake() {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#ping();
    else this.#connect();
  }

  // A connection can be dead, and neither side told.
  #ping() {
    this.#socket.send("ping");
    this.#after(ResumingSocket.TIMEOUT, () => this.#lose());
  }

  #expectMessage() {
    this.#after(ResumingSocket.PING, () => this.#ping());
  }

  #after(ms, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }

  #take(text) {
    this.#attempts = 0;
    this.#expectMessage();
    if (text === "pong") return;
    const message = JSON.parse(text);
    const { group, position, is_complete: isComplete } = message;
    const isJoined = isComplete !== undefined;
    if (position && !isJoined && this.#hasSeen(group, position)) return;
    if (position) {
      this.#positions[group] = position;
      try {
        this.#keep();
      } catch {
        // The storage is full.  The page goes on, and has more to fetch when it is opened again.
      }
    }
    if (!isJoined) this.onmessage(message);
    else if (!isComplete) this.onincomplete(group);
  }

  #hasSeen(group, position) {
    const seen = this.#seen.get(group) ?? new Set();
    this.#seen.set(group, seen);
    if (seen.has(position)) return true;
    if (seen.size === ResumingSocket.REMEMBERED) seen.delete(seen.values().next().value);
    seen.add(position);
    return false;
  }
}
