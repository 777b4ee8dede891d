// Data: what has been stored, how far people agree, and exports with the command that reads them.

import { explain, failure, get, isAdmin, models, post, request } from './api.js';
import { announce, button, command, count, dialog, download, h, mainButton, number, percent, problem, prose, refill } from './dom.js';
import { fault, fold } from './settings.js';

export const data = { path: '/data', title: 'Data', about: 'Counts of stored feedback, agreement, win rates, where a record is from, and exports for training.', keys: [], open };

const PAGE = 20; // records of a list
const KINDS = ['Rankings', 'Ratings', 'Demonstrations'];
const PAPER = 0.726; // agreement of InstructGPT's labelers among each other (Ouyang et al. 2022)

const EXPORTS = [
	['comparisons', 'Comparisons', (dir) => `gptkit train-rm --init ${dir} --data comparisons.jsonl`],
	['demonstrations', 'Demonstrations', () => 'gptkit sft --data demonstrations.jsonl'],
	['prompts', 'Prompts', () => 'gptkit ppo --prompts prompts.jsonl'],
];

/** A table; the first cell names its row. On a narrow screen, each row becomes a list with labels. */
export function table(caption, heads, rows) {
	const numeric = (i) => rows.length > 0 && rows.every((row) => typeof row[i] === 'string' && /^[\d.,%]/.test(row[i]));
	return h('table.stack', h('caption', caption), h('thead', h('tr', heads.map((head, i) => h('th', { scope: 'col', class: numeric(i) ? 'num' : false }, head)))),
		h('tbody', rows.map((row) => h('tr', row.map((cell, i) => h(i ? 'td' : 'th', { scope: i ? false : 'row', 'data-label': heads[i], class: numeric(i) ? 'num' : false }, h('span', { dir: 'auto' }, cell)))))));
}

/** An interval from 0 to 1, beside the paper's value. */
const interval = ({ value, low, high }) => h('svg.interval', { viewBox: '0 0 144 16', 'aria-hidden': 'true' }, h('line', { x1: 0, x2: 144, y1: 8, y2: 8 }),
	h('line.paper', { x1: PAPER * 144, x2: PAPER * 144, y1: 0, y2: 16 }), h('line.range', { x1: low * 144, x2: high * 144, y1: 8, y2: 8 }), h('circle', { cx: value * 144, cy: 8, r: 4 }));
const numbers = (one) => [one.rankings, one.ratings, one.demonstrations].map((n) => number(n));
const range = ({ low, high }) => `${percent(low)} to ${percent(high)}`;

/** Names and values, without those that are empty. */
export const facts = (values) => h('dl.keys', Object.entries(values).filter(([, value]) => value != null && value !== '' && value !== false).map(([name, value]) =>
	[h('dt', name.replaceAll('_', ' ')), h('dd', { dir: 'auto' }, typeof value === 'object' ? JSON.stringify(value) : String(value))]));

export const boxes = (pairs) => h('dl.figures', pairs.map(([name, value]) => h('div', h('dt', name), h('dd', value))));

async function show(id) {
	try {
		const { person, messages, answers, fields, exports, ...rest } = await get(`/api/feedback/records/${id}`);
		await dialog(`Record ${id}`, (close) => [
			h('p', mainButton('Close', () => close())),
			facts({ ...rest, id: '', prompt: '', person: `${person.name} (${person.role} ${person.number})`, ...fields }),
			messages.map((one) => [h('h3', one.role), prose(one.content, '.gap')]),
			answers.map(({ model, text, ...one }, i) => h('section.card', h('h3', `Answer ${i + 1}`), prose(text, '.gap'), facts({ ...one, model: model.name, ...model, name: '' }))),
			h('h3', 'Exports'), exports.length ? exports.map(facts) : h('p', 'No export holds this record.'),
		]);
	} catch (error) {
		problem(explain(error));
	}
}

function open(main) {
	const place = h('div');
	let from = 0; // the first record of the list
	main.append(place);
	async function load() {
		let got;
		try {
			got = await Promise.all([get('/api/feedback'), get(`/api/feedback/records?from=${from}`)]);
		} catch (error) {
			return refill(place, fault(failure(error), load));
		}
		if (place.isConnected) refill(place, draw(...got));
	}

	function draw({ counts, people, days, agreement, models: rates, longer_preferred: longer }, records) {
		const stored = counts.rankings + counts.ratings + counts.demonstrations;
		const names = { completions: 'Answers', rankings: 'Rankings', ratings: 'Ratings', demonstrations: 'Demonstrations', skipped: 'Skipped', tasks_waiting: 'Tasks waiting' };
		return [
			h('div.row.gap', h('span.muted.grow', isAdmin() ? 'Feedback of everybody.' : 'Your own feedback.'), button('Refresh', () => load().then(() => announce('The figures were loaded again.')))),
			boxes(Object.entries(names).map(([key, name]) => [name, number(counts[key])])),
			!stored && h('p.note', 'No feedback has been stored yet. Rate answers in Chat, vote in Compare, or rank answers in Label.'),
			h('section', h('h2', 'Agreement'), agreement ? table('How often two people order the same two answers the same way', ['Who', 'Agreement', '95% interval', 'Pairs', 'Chart'], [
				['People on this server', percent(agreement.value), range(agreement), number(agreement.n), interval(agreement)],
				["InstructGPT's labelers (2022)", percent(PAPER), '', '', ''],
			]) : h('p', `No two people have ranked the same answers yet. InstructGPT's labelers agreed in ${percent(PAPER)} of the pairs.`)),
			h('section', h('h2', 'Win rates'), rates.length ? [table('Comparisons between different models', ['Model', 'Win rate', '95% interval', 'Strength', 'Its 95% interval', 'Wins', 'Losses', 'Ties'],
				rates.map(({ name, weights, win_rate: rate, strength, wins, losses, ties }) => [h('span', name, h('small.mono', ` ${weights.slice(0, 12)}`)), percent(rate.value), range(rate),
					number(strength.value), `${number(strength.low)} to ${number(strength.high)}`, number(wins), number(losses), number(ties)])),
			h('p.muted', 'Strength: Bradley and Terry, in Elo points around 1,000. 400 points more win 10 of 11 comparisons.')] : h('p', 'No two models have been compared yet.'),
			longer && h('p', `The longer answer was preferred in ${percent(longer.value)} of ${count(longer.n, 'comparison')} (95%: ${range(longer)}).`)),
			people.length ? h('section', h('h2', 'People'), table('Records by person', ['Person', 'Role', ...KINDS, 'Known answers', 'Consent', 'In exports'],
				people.map((one) => [one.name, one.role, ...numbers(one), one.known_best ? `${percent(one.known_best.value, 0)} of ${one.known_best.n}` : '', one.consent ? 'yes' : 'no', isAdmin() ? h('span.row', exclude(one), remove(one)) : one.excluded ? 'no' : 'yes'])),
			fold('Records by day', table('The newest 30', ['Day', 'Person', ...KINDS], days.slice(0, 30).map((one) => [one.day, one.person, ...numbers(one)])))) : null,
			stored ? h('section', h('h2', 'Records'), table('The newest first', ['Record', 'Stored', 'Person', 'Prompt', 'Origin'], records.map((one) => [
				one.is_superseded ? h('s', one.id) : one.id, one.at.slice(0, 16).replace('T', ' '), one.person.name, one.prompt.slice(0, 80), button('Show', () => show(one.id), { 'aria-label': `Show ${one.id}` })])),
			h('div.row', button('Newer', () => turn(-PAGE), { disabled: !from }), button('Older', () => turn(PAGE), { disabled: records.length < PAGE }))) : null,
			isAdmin() && exports(),
		];
	}

	const turn = (by) => {
		from += by;
		load();
	};

	/** A button that does something with a person, and announces what `run` returns. */
	const act = (verb, name, run) => button(verb, async () => {
		announce(await run().catch(explain));
		load();
	}, { 'aria-label': `${verb} ${name}` });
	const exclude = ({ name, excluded }) => act(excluded ? 'Include' : 'Exclude', name, async () => {
		await post('/api/people', { name, excluded: !excluded });
		return `${name} is ${excluded ? 'included' : 'excluded'}.`;
	});
	const remove = ({ name }) => act('Delete', name, async () => {
		const sure = await dialog(`Delete ${name}?`, (close) => [
			h('p', 'All records of this person, the answers to their prompts, and the records about these answers will be deleted. This cannot be undone.'),
			h('div.row', button('Cancel', () => close()), button('Delete', () => close(true)))]);
		if (!sure) return 'Nothing was deleted.';
		const { exports } = await (await request('DELETE', `/api/people/${encodeURIComponent(name)}`)).json();
		if (exports.length) problem(`These exports still hold records of ${name}: ${exports.map((one) => `${one.export} (${one.path})`).join(', ')}.`);
		return `${name} was deleted.`;
	});

	function exports() {
		const next = h('div', { role: 'status' });
		const run = async (kind, name, line) => {
			try {
				const text = await (await request('GET', `/api/export?kind=${kind}`)).text();
				const n = text.split('\n').filter(Boolean).length;
				download(`${kind}.jsonl`, text);
				refill(next, h('p', `${name}: ${count(n, 'record')}. The file is ${kind}.jsonl. The next command is:`), command(line(models(true)[0]?.name ?? 'DIR')));
			} catch (error) {
				refill(next, fault(failure(error), () => run(kind, name, line)));
			}
		};
		return h('section', h('h2', 'Export'), h('p', 'Each export is a file of JSON lines that the training commands read.'),
			h('div.row.gap', EXPORTS.map(([kind, name, line]) => button(name, () => run(kind, name, line)))), next);
	}

	load();
	return { close() {} };
}
