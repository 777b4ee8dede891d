// Elements, focus, announcements, and what the browser keeps. Text of models and people is only ever set as text.

const SVG = 'http://www.w3.org/2000/svg';
const SVG_TAGS = new Set(['svg', 'line', 'circle', 'path']);
const PROPERTIES = new Set(['value', 'checked', 'disabled', 'hidden', 'readOnly', 'selected', 'open']);

/** Creates an element: h('p.muted', { id: 'x' }, 'text', child). `onclick: f` adds a listener; false leaves an attribute out. */
export function h(tag, ...children) {
	const [name, ...classes] = tag.split('.');
	const element = SVG_TAGS.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
	if (classes.length) element.setAttribute('class', classes.join(' '));
	const props = children[0] && Object.getPrototypeOf(children[0]) === Object.prototype ? children.shift() : {};
	for (const [name, value] of Object.entries(props)) {
		if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
		else if (PROPERTIES.has(name)) element[name] = value;
		else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : value);
	}
	element.append(...present(children));
	return element;
}
const present = (children) => children.flat(Infinity).filter((child) => child != null && child !== false);

/** A button. Its label is its key, so that the focus survives when it is drawn again. */
export const button = (label, onclick, props = {}) => h('button', { type: 'button', onclick, 'data-k': props['aria-label'] ?? label, ...props }, label);

let ids = 0;
export const newId = () => `e${++ids}`;

export const mainButton = (label, onclick) => button(label, onclick, { class: 'main' });

export function field(label, control, hint) {
	control.id ||= newId();
	const note = hint && h('small', { id: `${control.id}-hint` }, hint);
	if (note) control.setAttribute('aria-describedby', note.id);
	return h('div.field', h('label', { for: control.id }, label), control, note);
}

export const numberInput = (value, min, max, step, props = {}) =>
	h('input', { type: 'number', value: value ?? '', min, max, step, inputmode: 'decimal', 'data-k': props['aria-label'], ...props });

/** The numbers of fields by name, without empty fields; null, after showing why, when one is out of range. */
export function numbersOf(inputs) {
	const values = {};
	for (const [name, input] of Object.entries(inputs)) {
		if (!input.checkValidity()) {
			const fold = input.closest('details');
			if (fold) fold.open = true;
			input.reportValidity();
			return null;
		}
		if (input.value !== '') values[name] = Number(input.value);
	}
	return values;
}

export const select = (options, value, props = {}) =>
	h('select', props, options.map(([id, label]) => h('option', { value: id, selected: id === value }, label)));

/** Text of a model or a person: shown as it is, in its own direction. */
export const prose = (text, classes = '', props = {}) => h(`div.text${classes}`, { dir: 'auto', ...props }, text);

/** Replaces the children of `parent`; the focus stays on the control with the same data-k. */
export function refill(parent, ...children) {
	const active = document.activeElement;
	const key = parent.contains(active) ? active.dataset.k : null;
	parent.replaceChildren(...present(children));
	if (key && document.activeElement !== active) parent.querySelector(`[data-k="${CSS.escape(key)}"]`)?.focus();
}

export function announce(text) {
	if (!text?.trim()) return;
	const live = document.getElementById('live');
	live.append(h('p', text));
	while (live.childElementCount > 20) live.firstChild.remove();
}

/** Collects pieces of text and announces whole sentences. */
export class Sentences {
	rest = '';
	add(piece) {
		this.rest += piece;
		const end = Math.max(...['. ', '! ', '? ', '\n'].map((mark) => this.rest.lastIndexOf(mark)));
		if (end < 0) return;
		announce(this.rest.slice(0, end + 1));
		this.rest = this.rest.slice(end + 1);
	}
	end() {
		announce(this.rest);
		this.rest = '';
	}
}

/** Shows a problem at the top of the page until it is closed. */
export function problem(text) {
	const box = document.getElementById('problems');
	if ([...box.children].some((one) => one.firstChild.textContent === text)) return;
	const item = h('p', { role: 'alert' }, h('span', text), button('Close', () => item.remove()));
	box.append(item);
}
export const clearProblems = () => document.getElementById('problems').replaceChildren();

/** A modal dialog with what `build(close)` returns; resolves with what `close` gets. */
export function dialog(title, build) {
	return new Promise((resolve) => {
		const before = document.activeElement;
		const heading = h('h2', { id: newId() }, title);
		const box = h('dialog', { 'aria-labelledby': heading.id, onclose: () => {
			box.remove();
			before?.focus?.();
			resolve(box.result ?? null);
		} }, heading);
		box.append(...[build((result) => { box.result = result; box.close(); })].flat(Infinity).filter(Boolean));
		document.body.append(box);
		box.showModal();
	});
}

export const copyText = (text) => navigator.clipboard?.writeText(text).then(() => announce('Copied.'), () => problem('The browser does not allow copying.'));

export function download(name, text) {
	const url = URL.createObjectURL(new Blob([text], { type: 'application/jsonl' }));
	h('a', { href: url, download: name }).click();
	setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const command = (text) => h('div.command', h('code', text), button('Copy', () => copyText(text), { 'aria-label': `Copy the command ${text}` }));

export function read(storage, name, otherwise) {
	try {
		return JSON.parse(storage.getItem(`gptkit.${name}`)) ?? otherwise;
	} catch {
		return otherwise;
	}
}
export function write(storage, name, value) {
	try {
		if (value === undefined) storage.removeItem(`gptkit.${name}`);
		else storage.setItem(`gptkit.${name}`, JSON.stringify(value));
		return true;
	} catch {
		return false;
	}
}

export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const number = (n, digits = 0) => Number(n).toLocaleString('en', { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const percent = (share, digits = 1) => `${number(share * 100, digits)}%`;
export const secondsSince = (start) => Math.round((performance.now() - start) / 100) / 10;
export const isTyping = (element) =>
	element.matches?.('textarea, select, [contenteditable], input:not([type=radio], [type=checkbox])');
/** 0 … n-1 in a random order. */
export function shuffled(n) {
	const drawn = Array.from({ length: n }, (_, i) => [Math.random(), i]);
	return drawn.sort(([a], [b]) => a - b).map(([, i]) => i);
}
