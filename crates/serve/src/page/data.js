// Data: what has been stored, how far people agree, and exports with the command that reads them.

import { explain, failure, get, isAdmin, models, post, request } from './api.js';
import { announce, button, command, count, download, h, number, percent, refill } from './dom.js';
import { fault } from './settings.js';

export const data = { path: '/data', title: 'Data', about: 'Counts of stored feedback, agreement, win rates, and exports for training.', keys: [], open };

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

/** An interval on a line from 0 to 1, beside the value `mark`. */
const interval = (value, low, high, mark) => h('svg.interval', { viewBox: '0 0 144 16', 'aria-hidden': 'true' }, h('line', { x1: 0, x2: 144, y1: 8, y2: 8 }),
	h('line.paper', { x1: mark * 144, x2: mark * 144, y1: 0, y2: 16 }), h('line.range', { x1: low * 144, x2: high * 144, y1: 8, y2: 8 }), h('circle', { cx: value * 144, cy: 8, r: 4 }));
const range = ({ low, high }) => `${percent(low)} to ${percent(high)}`;

function open(main) {
	const place = h('div');
	main.append(place);
	async function load() {
		let figures;
		try {
			figures = await get('/api/feedback');
		} catch (error) {
			return refill(place, fault(failure(error), load));
		}
		if (place.isConnected) refill(place, draw(figures));
	}

	function draw({ counts, people, agreement, models: rates, longer_preferred: longer }) {
		const stored = counts.rankings + counts.ratings + counts.demonstrations;
		const names = { completions: 'Answers', rankings: 'Rankings', ratings: 'Ratings', demonstrations: 'Demonstrations', skipped: 'Skipped', tasks_waiting: 'Tasks waiting' };
		return [
			h('div.row.gap', h('span.muted.grow', isAdmin() ? 'Feedback of everybody.' : 'Your own feedback.'), button('Refresh', () => load().then(() => announce('The figures were loaded again.')))),
			h('dl.figures', Object.entries(names).map(([key, name]) => h('div', h('dt', name), h('dd', number(counts[key] ?? 0))))),
			stored ? null : h('p.note', 'No feedback has been stored yet. Rate answers in Chat, vote in Compare, or rank answers in Label.'),
			h('section', h('h2', 'Agreement'), agreement ? table('How often two people order the same two answers the same way', ['Who', 'Agreement', '95% interval', 'Pairs', 'Chart'], [
				['People on this server', percent(agreement.value), range(agreement), `${agreement.agreed} of ${agreement.pairs}`, interval(agreement.value, agreement.low, agreement.high, PAPER)],
				["InstructGPT's labelers (2022)", percent(PAPER), '', '', ''],
			]) : h('p', `No two people have ranked the same answers yet. InstructGPT's labelers agreed in ${percent(PAPER)} of the pairs.`)),
			h('section', h('h2', 'Win rates'), rates.length ? table('Comparisons between different models', ['Model', 'Win rate', '95% interval', 'Wins', 'Losses', 'Ties', 'Chart'],
				rates.map((one) => {
				const { value, low, high } = { ...one, value: one.win_rate, ...one.win_rate }; // a number with its interval beside or inside it
				const rate = value == null ? ['', ''] : [percent(value), range({ low, high })];
				return [h('span', one.name, h('small.mono', ` ${one.weights.slice(0, 12)}`)), ...rate, number(one.wins), number(one.losses), number(one.ties), value == null ? '' : interval(value, low, high, 0.5)];
			}))
				: h('p', 'No two models have been compared yet.'),
			longer ? h('p', `The longer answer was preferred in ${percent(longer.value)} of ${count(longer.n, 'comparison')} (95%: ${range(longer)}).`) : null),
			people.length ? h('section', h('h2', 'People'), table('Records by person', ['Person', 'Role', 'Rankings', 'Ratings', 'Demonstrations', 'Consent', 'In exports'],
				people.map((one) => [one.name, one.role, number(one.rankings), number(one.ratings), number(one.demonstrations), one.consent ? 'yes' : 'no', [one.excluded ? 'excluded ' : 'included ', isAdmin() && exclude(one)]]))) : null,
			isAdmin() ? exports() : null,
		];
	}

	const exclude = (one) => button(one.excluded ? 'Include' : 'Exclude', async () => {
		try {
			await post('/api/people', { name: one.name, excluded: !one.excluded });
			announce(`${one.name} is ${one.excluded ? 'included' : 'excluded'}.`);
		} catch (error) {
			announce(explain(error));
		}
		load();
	}, { 'aria-label': `${one.excluded ? 'Include' : 'Exclude'} ${one.name}` });

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
