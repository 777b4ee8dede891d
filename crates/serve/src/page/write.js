// Write: demonstrations.

import { models } from './api.js';
import { announce, button, field, h, mainButton, percent, problem, refill, secondsSince, select } from './dom.js';
import { converse, fold, modelOptions, reason, record, save, Settings } from './settings.js';

export const writing = {
	path: '/write', title: 'Write',
	about: 'Write a prompt and the answer that a model should give, or both sides of a dialogue. A model can suggest drafts.',
	keys: [['Ctrl+Enter', 'Save'], ['Alt+S', 'Suggest the answer in focus, or the last one'], ['Esc', 'Stop the draft']],
	open,
};

const fresh = () => ({ system: '', turns: [{ role: 'user', text: '' }, { role: 'assistant', text: '' }], supersedes: undefined, began: undefined });
let draft = fresh(); // survives a change of the screen

/** The share of the draft's words that are still in the text, in their order. */
export function keptShare(draftText, text) {
	const [a, b] = [draftText, text].map((one) => one.trim().split(/\s+/).slice(0, 2000));
	let row = new Array(b.length + 1).fill(0);
	for (const word of a) {
		const above = row;
		row = [0];
		b.forEach((other, j) => row.push(word === other ? above[j] + 1 : Math.max(above[j + 1], row[j])));
	}
	return row.at(-1) / a.length;
}

function open(main) {
	let abort = null;
	let saved = null;
	const hasModel = models(true).length > 0;
	const model = hasModel && select(modelOptions(true));
	const settings = new Settings('write', ['temperature', 'top_p', 'max_tokens']);
	const place = h('div');
	main.append(place);

	const messages = (n) => [...(draft.system.trim() ? [{ role: 'system', content: draft.system.trim() }] : []), ...draft.turns.slice(0, n).map((turn) => ({ role: turn.role, content: turn.text.trim() }))];

	function draw(focus) {
		const system = h('textarea', { rows: 2, value: draft.system, oninput: () => (draft.system = system.value) });
		refill(place,
			saved && h('div.note.row', h('span.grow', saved.sentence), button('Correct it', correct)),
			fold('System message and settings', field('System message', system, 'Empty: none.'), model && field('Model of the drafts', model), h('div.grid', settings.fields)),
			draft.turns.map(turnForm),
			h('div.row', mainButton(draft.supersedes ? 'Save the correction' : 'Save', submit),
				button('Add a turn of both', () => {
					draft.turns.push({ role: 'user', text: '' }, { role: 'assistant', text: '' });
					draw(draft.turns.length - 2);
				}),
				draft.turns.length > 2 && button('Remove the last turn of both', () => {
					draft.turns.splice(-2);
					draw(draft.turns.length - 1);
				})));
		if (focus !== undefined) place.querySelectorAll('.one-turn textarea')[focus]?.focus();
	}

	function turnForm(turn, i) {
		const own = turn.role === 'user';
		const pair = draft.turns.length > 2 ? ` ${Math.floor(i / 2) + 1}` : '';
		const share = h('small.muted');
		const tell = () => (share.textContent = turn.draft ? `${percent(keptShare(turn.draft.text, turn.text), 0)} of the draft kept` : '');
		const area = h('textarea', { rows: own ? 3 : 5, value: turn.text, readOnly: turn.writing === true, 'data-k': `turn${i}`, oninput: () => {
			draft.began ??= performance.now();
			turn.text = area.value;
			tell();
		} });
		turn.area = area;
		tell();
		return h('div.one-turn', field(own ? `Prompt${pair}` : `Answer${pair}`, area),
			!own && hasModel && h('div.row.gap', button(turn.writing ? 'Stop (Esc)' : 'Suggest', () => suggest(i), { 'data-k': `suggest${i}` }), share));
	}

	async function suggest(i) {
		if (abort) return abort.abort();
		const turn = draft.turns[i];
		const empty = draft.turns.slice(0, i).findIndex((one) => !one.text.trim());
		if (empty >= 0) {
			announce('Fill in the turns before this one first.');
			return draft.turns[empty].area.focus();
		}
		const sampling = settings.values();
		if (!sampling) return;
		draft.began ??= performance.now();
		abort = new AbortController();
		const before = turn.text;
		Object.assign(turn, { text: '', writing: true });
		draw();
		const done = await converse({ model: model.value, messages: messages(i), ...sampling }, { signal: abort.signal, onText: (_, piece) => {
			turn.text += piece;
			turn.area.value = turn.text;
		} });
		if (done.fault) problem(reason(done));
		turn.draft = done.state === 'done' ? { text: turn.text, answer: { request: done.id, choice: 0 } } : null;
		if (turn.text) announce(`Draft: ${turn.text}`);
		if (!turn.text) turn.text = before;
		turn.writing = false;
		abort = null;
		if (place.isConnected) draw(i);
	}

	async function submit() {
		if (abort) return;
		const empty = draft.turns.find((turn) => !turn.text.trim());
		if (empty) {
			empty.area.setCustomValidity('This turn is empty.');
			empty.area.reportValidity();
			empty.area.setCustomValidity('');
			return;
		}
		const mine = draft;
		const based = mine.turns.at(-1).draft;
		const sent = record({ messages: messages(), based_on: based?.answer, seconds: mine.began && secondsSince(mine.began), supersedes: mine.supersedes });
		const sentence = await save('/api/demonstrations', sent, 'The demonstration was saved.');
		if (!sentence) return;
		saved = { sentence, draft: mine, id: sent.client_id };
		draft = { ...fresh(), system: mine.system };
		if (place.isConnected) draw(0);
	}

	function correct() {
		draft = { ...saved.draft, supersedes: saved.id, began: performance.now() };
		saved = null;
		draw(draft.turns.length - 1);
	}

	draw();
	return {
		close: () => abort?.abort(),
		keys: {
			Escape: () => (abort ? abort.abort() : false), 'Ctrl+Enter': submit,
			'Alt+KeyS': (event) => {
				const at = draft.turns.findIndex((turn) => turn.area === event.target && turn.role === 'assistant');
				return hasModel && suggest(at < 0 ? draft.turns.length - 1 : at);
			},
		},
	};
}
