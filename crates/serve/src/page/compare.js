// Compare: two answers, blind.

import { models, session } from './api.js';
import { announce, button, clearProblems, field, h, mainButton, problem, prose, refill, secondsSince, select, shuffled } from './dom.js';
import { converse, fault, fold, modelOptions, record, save, Settings } from './settings.js';

export const compare = {
	path: '/compare', title: 'Compare',
	about: 'Two answers to the same prompt, on sides drawn at random. Names are shown after the vote.',
	keys: [['1', 'The left answer is better'], ['2', 'The right answer is better'], ['t', 'Tie'], ['b', 'Both are bad'], ['n', 'New prompt'],
		['Ctrl+Enter', 'Compare'], ['Esc', 'Stop']],
	open,
};

const SIDES = ['Left', 'Right'];

function open(main) {
	if (!models(true).length) {
		main.append(h('p', 'No served model was trained for dialogue, so there is nothing to compare.'));
		return null;
	}
	const names = modelOptions(true);
	const pickers = [select(names), select(names, (names[1] ?? names[0])[0])];
	const settings = ['a', 'b'].map((one) => new Settings(`compare.${one}`, ['temperature', 'top_p', 'max_tokens']));
	const blind = h('input', { type: 'checkbox', checked: true });
	const box = h('textarea', { rows: 2 });
	const goButton = mainButton('Compare', () => (round?.abort ? stop() : begin()));
	const history = h('div');
	const arena = h('div');
	if (!session().feedback) main.append(h('p.note', 'This server keeps no feedback: votes are not stored.'));
	main.append(
		fold('Models and settings',
			h('div.grid.wide', ['Model A', 'Model B'].map((title, i) => h('fieldset', h('legend', title), field('Model', pickers[i]), h('div.grid', settings[i].fields)))),
			h('label.check', blind, 'Blind: names are shown after the vote')),
		history, field('Prompt', box, 'Both models get the same prompt. Ctrl+Enter compares.'),
		h('div.row.gap', goButton), arena);

	let before = []; // messages of earlier rounds that were continued
	let round = null; // { messages, order, answers, abort, vote, record, since, side }

	function begin() {
		clearProblems();
		const prompt = box.value.trim();
		if (!prompt || round?.abort) return box.focus();
		const sampling = settings.map((one) => one.values());
		if (sampling.includes(null)) return;
		const [a, b] = pickers.map((picker) => picker.value);
		if (a === b && sampling.every((one) => one.temperature === 0)) {
			return problem('Both sides would give the same answer. Choose two models, or a temperature above 0.');
		}
		run(prompt, [a, b], sampling);
	}

	async function run(prompt, picked, sampling) {
		const abort = new AbortController();
		const order = shuffled(2);
		const messages = [...before, { role: 'user', content: prompt }];
		round = { prompt, messages, order, abort, vote: null, side: 0, blind: blind.checked, answers: picked.map((model) => ({ model, text: '', state: 'writing' })), sampling };
		const mine = round;
		draw();
		announce('Both answers are being written.');
		await Promise.all(mine.answers.map(async (answer, i) => {
			const done = await converse({ model: answer.model, messages, ...sampling[i] }, { signal: abort.signal, onText: (_, piece) => {
				answer.text += piece;
				answer.element?.append(piece);
			} });
			Object.assign(answer, { state: done.state, fault: done.state === 'stopped' ? 'Stopped.' : done.fault, retryAfter: done.retryAfter, answer: { request: done.id, choice: 0 } });
		}));
		mine.abort = null;
		mine.since = performance.now();
		if (mine !== round || !arena.isConnected) return;
		draw();
		if (!votable()) return;
		announce('Both answers are complete.');
		order.forEach((i, side) => announce(`${SIDES[side]} answer: ${mine.answers[i].text || 'empty.'}`));
		if (document.activeElement === box || document.activeElement === document.body) arena.querySelector('.votes').focus();
	}

	const stop = () => round?.abort?.abort();
	const votable = () => round && round.answers.every((answer) => answer.state === 'done');

	async function vote(kind) {
		if (!votable() || round.vote) return;
		const mine = round;
		const [left, right] = mine.order;
		const ranking = [1, 1];
		if (kind === 'left') ranking[right] = 2;
		if (kind === 'right') ranking[left] = 2;
		mine.vote = kind;
		mine.saved = '';
		mine.record = record({
			answers: mine.answers.map((one) => one.answer), ranking, both_bad: kind === 'bad' || undefined, shown: mine.order, blind: mine.blind, seconds: secondsSince(mine.since),
			note: mine.answers.some((one) => one.text.toLowerCase().includes(one.model.toLowerCase())) ? 'an answer contains the name of its model' : undefined,
		});
		draw();
		arena.querySelector('.result').focus();
		mine.saved = session().feedback ? await save('/api/rankings', mine.record, 'The vote was saved.') : 'The vote was not stored: this server keeps no feedback.';
		if (mine.saved === null) mine.vote = null;
		if (mine === round) draw();
	}

	async function undo() {
		const mine = round;
		const { answers, shown, blind: wasBlind, client_id } = mine.record;
		if (session().feedback && !(await save('/api/rankings', record({ answers, shown, blind: wasBlind, skipped: 'undone', supersedes: client_id }), 'The vote was taken back.'))) return;
		mine.vote = null;
		mine.since = performance.now();
		draw();
		arena.querySelector('.votes').focus();
	}

	function next(chosen) {
		if (chosen) {
			before = [...round.messages, { role: 'assistant', content: chosen.text }];
			announce('The conversation continues with the chosen answer.');
		} else before = [];
		round = null;
		box.value = '';
		draw();
		box.focus();
	}

	function swap(side) {
		round.side = side;
		draw();
	}

	function draw() {
		goButton.textContent = round?.abort ? 'Stop (Esc)' : 'Compare';
		refill(history, before.length ? [h('h2', 'Conversation so far'), before.map((message) => h('div', { class: `turn ${message.role}` }, h('h3', message.role === 'user' ? 'You' : 'Chosen answer'), prose(message.content)))] : []);
		if (!round) return refill(arena);
		const named = !round.blind || round.vote;
		const cards = round.order.map((i, side) => {
			const answer = round.answers[i];
			answer.element = answer.state === 'writing' ? prose(answer.text, '.writing', { 'aria-busy': 'true' }) : answer.text ? prose(answer.text) : prose('The answer is empty.', '.empty');
			const picked = round.vote === SIDES[side].toLowerCase();
			return h('section', { class: `card${round.side === side ? '' : ' away'}${picked ? ' picked' : ''}`, 'aria-label': `${SIDES[side]} answer` },
				h('h2', `${SIDES[side]} answer`), named && h('p.muted', `${answer.model}, temperature ${round.sampling[i].temperature ?? 1}`), answer.element,
				answer.fault && fault(answer, () => run(round.prompt, round.answers.map((one) => one.model), round.sampling)));
		});
		const choose = (label, kind, key) => button(`${label} (${key})`, () => vote(kind), { disabled: !votable() });
		refill(arena,
			h('h2.unseen', 'Answers'),
			h('div.sides', { role: 'group', 'aria-label': 'Shown answer' }, SIDES.map((name, side) => button(`${name} answer`, () => swap(side), { 'aria-pressed': String(round.side === side) }))),
			h('div.pair', cards),
			round.vote ? result() : h('div.votes', { role: 'group', tabindex: '-1', 'data-k': 'votes', 'aria-label': 'Your vote' },
				choose('Left', 'left', '1'), choose('Right', 'right', '2'), choose('Tie', 'tie', 't'), choose('Both bad', 'bad', 'b')));
	}

	function result() {
		const [left, right] = round.order.map((i) => round.answers[i]);
		const said = { left: 'The left answer is better.', right: 'The right answer is better.', tie: 'A tie.', bad: 'Both are bad.' }[round.vote];
		const chosen = { left, right, tie: left, bad: null }[round.vote];
		return h('div.note.result', { tabindex: '-1', 'data-k': 'result' },
			h('p', `${said} Left: ${left.model}. Right: ${right.model}. `, round.saved),
			h('div.row', mainButton('New prompt (n)', () => next(null)),
				chosen && button(`Continue with the ${round.vote === 'tie' ? 'left' : 'better'} answer`, () => next(chosen)),
				button('Undo the vote', undo)));
	}

	const choice = (kind) => () => (votable() && !round.vote ? vote(kind) : false);
	return {
		close: stop,
		keys: {
			Escape: () => (round?.abort ? stop() : false), 'Ctrl+Enter': begin, 1: choice('left'), 2: choice('right'), t: choice('tie'), b: choice('bad'),
			n: () => (round && !round.abort ? next(null) : false),
		},
	};
}
