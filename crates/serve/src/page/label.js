// Label: InstructGPT's form.

import { explain, failure, isAdmin, post, session, stream } from './api.js';
import { announce, button, count, field, h, mainButton, newId, numberInput, numbersOf, prose, refill, secondsSince, select, shuffled } from './dom.js';
import { fault, fold, modelOptions, record, save } from './settings.js';

export const label = {
	path: '/label', title: 'Label',
	about: 'Rate each answer from 1 (worst) to 7 (best), mark what applies, then rank all answers. Ties are allowed.',
	keys: [['1 to 7', 'Rate the answer'], ['a, c, d, …', 'Set the mark with this letter'], ['Enter', 'Next answer'], ['Ctrl+Enter', 'Next answer, or submit the ranking'],
		['u', 'Undo: back to the step before'], ['Esc', 'Stop writing the answers']],
	open,
};

const SCALE = [1, 2, 3, 4, 5, 6, 7];
const LETTERS = 'acdefghijklmopqrstvwxyz'; // without b, n and u
const REASONS = ['not my language', 'nonsense', 'personal data', 'I cannot judge it'];

function open(main) {
	let task = null; // the server's task with answers, forms, order, places, and the answer that is rated (at)
	let past = null; // the last submitted task
	let abort = null;
	let run = 0; // grows when something else is to be shown
	let clock = null;
	const place = h('div.fill');
	main.append(h('div.columns', place, h('aside', { 'aria-label': 'Instructions and tasks' }, instructions(), isAdmin() && maker(() => !task && next()))));

	async function next() {
		clearInterval(clock);
		task = null;
		const mine = ++run;
		refill(place, saved(), h('p.loading', 'Loading a task …'));
		let got;
		try {
			got = await post('/api/tasks/next', {});
		} catch (error) {
			return mine === run && refill(place, saved(), fault(failure(error), next));
		}
		if (mine !== run || !place.isConnected) return;
		if (!got.task) return empty();
		await load({ ...got.task, waiting: got.waiting });
	}

	function empty() {
		refill(place, saved(), h('h2', { tabindex: '-1' }, 'No task is waiting'),
			h('p', isAdmin() ? 'Make tasks from prompts with the form on this page.' : 'An administrator can make tasks from prompts.'), mainButton('Look again', next));
		place.querySelector('h2').focus();
	}

	async function load(fresh) {
		const mine = ++run;
		abort = new AbortController();
		const { model, messages, temperature, max_tokens, seed, answers: stored } = fresh;
		const k = fresh.k - stored.length;
		refill(place, saved(), prompt(fresh), h('p.loading', `${count(k, 'answer')} are being written …`));
		const done = k ? await stream('/v1/chat/completions', { model, messages, temperature, max_tokens, seed, n: k, store: true }, { signal: abort.signal }) : { state: 'done', choices: [] };
		if (mine !== run || !place.isConnected) return;
		abort = null;
		if (done.state !== 'done') return refill(place, saved(), fault({ ...done, fault: done.fault ?? 'Stopped.' }, () => load(fresh)));
		const all = [...stored, ...done.choices.map(({ text }, choice) => ({ request: done.id, choice, text }))];
		const answers = all.map(({ request, choice }) => ({ request, choice }));
		const forms = all.map(({ text }) => ({ text, likert: null, marks: [], note: '', seconds: 0 }));
		task = { ...fresh, answers, forms, order: shuffled(fresh.k), places: Array(fresh.k).fill(1), at: 0, since: performance.now(), began: performance.now() };
		draw(true);
	}

	const last = () => task.at === task.forms.length; // the ranking
	const form = () => task.forms[task.order[task.at]];

	function step(by) {
		if (!last()) form().seconds += secondsSince(task.since);
		if (by > 0 && !last() && !form().likert) {
			announce('Rate the answer from 1 to 7 first.');
			place.querySelector('#rate-first').hidden = false;
			return place.querySelector('.scale input').focus();
		}
		task.at = Math.max(0, task.at + by);
		task.since = performance.now();
		if (last() && by > 0 && task.places.every((one) => one === 1)) { // the ratings suggest a first ranking
			const better = (a) => task.forms.filter((other) => other.likert > a.likert).length + 1;
			task.places = task.forms.map(better);
		}
		draw(true);
	}

	function draw(move) {
		clearInterval(clock);
		const time = h('span.muted');
		const tick = () => {
			const s = Math.round((performance.now() - task.began) / 1000);
			time.textContent = `Time ${Math.floor(s / 60)}:${String(s % 60).padStart(2, '0')}`;
		};
		tick();
		clock = setInterval(tick, 1000);
		const k = task.forms.length;
		const title = last() ? 'Rank the answers' : `Answer ${task.at + 1} of ${k}`;
		refill(place, saved(), h('p.muted', `Task ${task.id}, ${count(Math.max(0, task.waiting - 1), 'task')} after it. `, time), prompt(task),
			h('section', h('h2', { tabindex: '-1' }, title), last() ? ranking() : rating(form()),
				h('div.row', mainButton(last() ? 'Submit' : 'Next', () => (last() ? submit() : step(1))),
					button('Back (u)', () => step(-1), { disabled: task.at === 0 }))), skipping());
		if (move) place.querySelector('section h2').focus();
	}

	function rating(one) {
		const marks = session().marks;
		const radio = (n) => h('label', h('input', { type: 'radio', name: 'likert', value: n, checked: one.likert === n, onchange: () => (one.likert = n) }), n);
		const mark = ({ name, text }, i) => h('label.check', h('input', { type: 'checkbox', checked: one.marks.includes(name), onchange: (event) => {
			one.marks = event.target.checked ? [...one.marks, name] : one.marks.filter((other) => other !== name);
		} }), h('span', LETTERS[i] ? [h('kbd', { 'aria-hidden': 'true' }, LETTERS[i]), ' '] : '', text));
		const note = h('textarea', { rows: 2, value: one.note, oninput: () => (one.note = note.value) });
		return [shown(one.text), h('fieldset', h('legend', 'Overall quality'), h('div.scale', SCALE.map(radio)),
			h('small', '1 is the worst, 7 the best.'), h('p', { id: 'rate-first', class: 'fault', hidden: true }, 'Rate the answer from 1 to 7 first.')),
		h('fieldset', h('legend', 'Mark what applies'), h('div.marks', marks.map(mark))), fold('Note', field('Note', note))];
	}

	const shown = (text) => h('div.card.gap', text ? prose(text) : prose('The answer is empty.', '.empty'));

	function ranking() {
		const k = task.forms.length;
		const items = task.order.map((i, at) => {
			const set = (value) => {
				task.places[i] = Math.min(k, Math.max(1, Math.round(value) || 1));
				draw();
				announce(`Answer ${at + 1} is at place ${task.places[i]}.`);
			};
			const input = numberInput(task.places[i], 1, k, 1, { 'aria-label': `Place of answer ${at + 1}`, onchange: () => set(Number(input.value)) });
			return h('li.card', h('div', h('h3', `Answer ${at + 1}`, h('small', `, rated ${task.forms[i].likert}`)), prose(task.forms[i].text || 'The answer is empty.')),
				h('div.place', button('▲', () => set(task.places[i] - 1), { 'aria-label': `Better: answer ${at + 1}` }), input,
					button('▼', () => set(task.places[i] + 1), { 'aria-label': `Worse: answer ${at + 1}` })));
		});
		return [h('p', 'Place 1 is the best. Give the same place to answers that are equally good.'), h('ol.ranked', items)];
	}

	function skipping() {
		const reason = select(REASONS.map((one) => [one, one]));
		return fold('Skip this task', field('Reason', reason), h('div.row.gap', button('Skip', () => finish({ skipped: reason.value }))));
	}

	const submit = () => {
		document.activeElement.blur(); // a place that was typed takes effect
		finish({ ranking: task.places.map((one) => 1 + new Set(task.places.filter((other) => other < one)).size) });
	};

	async function finish(outcome) {
		clearInterval(clock);
		const mine = task;
		const supersedes = mine.sent ?? {};
		const sent = { ratings: {} };
		const rank = record({ answers: mine.answers, ...outcome, shown: mine.order, blind: true, seconds: secondsSince(mine.began), task: mine.id, supersedes: supersedes.ranking });
		refill(place, h('p.loading', 'Saving …'));
		if (outcome.ranking) {
			for (const [i, one] of mine.forms.entries()) {
				const rated = record({ answer: mine.answers[i], likert: one.likert, marks: one.marks, note: one.note.trim() || undefined, seconds: Math.round(one.seconds * 10) / 10, supersedes: supersedes.ratings?.[i] });
				if (!(await save('/api/ratings', rated, ' '))) return draw(true);
				sent.ratings[i] = rated.client_id;
			}
		}
		sent.ranking = rank.client_id;
		const sentence = await save('/api/rankings', rank, outcome.ranking ? 'The ratings and the ranking were saved.' : 'The task was skipped.');
		mine.sent = sent;
		if (!sentence) return draw(true);
		past = { task: mine, sentence, rank };
		next();
	}

	const saved = () => past && h('div.note.row', h('span.grow', past.sentence), button('Undo', undo));

	async function undo() {
		const { task: old, rank } = past;
		const { answers, shown: order, blind } = rank;
		const undone = record({ answers, shown: order, blind, task: old.id, skipped: 'undone', supersedes: rank.client_id });
		if (!(await save('/api/rankings', undone, 'The task was taken back.'))) return;
		abort?.abort();
		abort = null;
		run += 1;
		past = null;
		old.sent.ranking = undone.client_id;
		task = old;
		task.since = performance.now();
		draw(true);
	}

	const ready = () => task !== null && place.querySelector('h2[tabindex]') !== null;
	const rates = () => ready() && !last();
	const press = (selector, i) => {
		const box = place.querySelectorAll(selector)[i];
		if (!box) return false;
		box.click();
		box.focus();
	};

	next();
	return {
		close: () => {
			clearInterval(clock);
			abort?.abort();
		},
		keys: {
			Escape: () => (abort ? abort.abort() : false), Enter: (event, typing) => (!typing && !event.target.matches('button, a, summary') && rates() ? step(1) : false),
			'Ctrl+Enter': () => (rates() ? step(1) : ready() ? submit() : false), u: () => (ready() && task.at ? step(-1) : past ? undo() : false),
			...Object.fromEntries(SCALE.map((n) => [n, () => (rates() ? press('.scale input', n - 1) : false)])),
			...Object.fromEntries([...LETTERS].map((letter, i) => [letter, () => (rates() ? press('.marks input', i) : false)])),
		},
	};
}

const prompt = (task) => h('section', { 'aria-label': 'Prompt' }, task.messages.map((message) =>
	h('div', { class: `turn ${message.role}` }, h('h2', { user: 'Prompt', system: 'System message' }[message.role] ?? 'Assistant'), prose(message.content))));

const instructions = () => h('details', { open: innerWidth > 767 }, h('summary', 'Instructions'),
	h('p', 'Helpful: the answer does what the prompt asks for, clearly.'), h('p', 'Truthful: it invents nothing.'), h('p', 'Harmless: it hurts nobody.'),
	h('p', 'For training data, helpfulness comes first, unless the answer does harm. Judge what is written, not its length.'));

/** The form with which administrators make tasks. */
function maker(made) {
	const prompts = h('textarea', { rows: 4 });
	const k = numberInput(4, 2, 9, 1, { required: true });
	const model = select(modelOptions(true));
	const temperature = numberInput(1, 0.01, 2, 'any', { required: true });
	const tokens = numberInput(64, 1, 1e6, 1, { required: true });
	const repeat = numberInput(10, 0, 1e6, 1, { required: true });
	const told = h('p', { role: 'status' });
	const make = async () => {
		try {
			const list = prompts.value.split('\n').map((one) => one.trim()).filter(Boolean).map((one) => (one.startsWith('{') ? JSON.parse(one) : one)).map((one) => (one.known_best ? one : one.prompt ?? one));
			if (!list.length || list.some((one) => typeof (one.prompt ?? one) !== 'string')) return (told.textContent = 'Enter at least one prompt.');
			const values = numbersOf({ k, temperature, max_tokens: tokens, repeat_every: repeat });
			if (!values) return;
			const answer = await post('/api/tasks', { prompts: list, model: model.value, ...values });
			told.textContent = `${count(answer.made, 'task')} made.`;
			prompts.value = '';
			made();
		} catch (error) {
			told.textContent = error instanceof SyntaxError ? 'A line that begins with { must be JSON.' : explain(error);
		}
	};
	const heading = h('h2', { id: newId() }, 'Make tasks');
	return h('section', { 'aria-labelledby': heading.id }, heading, field('Prompts', prompts, 'One per line, as text or as {"prompt": "…", "known_best": "…"}, where the best answer is known.'), field('Model', model),
		h('div.grid', field('Answers (K)', k), field('Temperature', temperature), field('Max tokens', tokens)), field('Second person for one task in', repeat, 'Two people rank its answers, to measure agreement. 0: none.'), h('div.row', button('Make tasks', make)), told);
}
