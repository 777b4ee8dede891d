// Models: what is served.

import { explain, get, request, session } from './api.js';
import { count, h, number, percent, refill } from './dom.js';
import { boxes, facts, table } from './data.js';

export const models = { path: '/served', title: 'Models', about: 'The served models, what they were trained on, and how fast they are now.', keys: [], open };

const size = (n) => (n >= 1e9 ? `${number(n / 1e9, 1)} B` : n >= 1e6 ? `${number(n / 1e6, 1)} M` : number(n));

function chart({ metric, points }) {
	const values = points.map(([, value]) => value);
	const [low, high] = [Math.min(...values), Math.max(...values)];
	const place = (value, i) => `${number((i / (values.length - 1)) * 320, 1)} ${number(100 - ((value - low) / (high - low || 1)) * 100, 1)}`;
	return h('figure', h('svg.curve', { viewBox: '-2 -2 324 104', 'aria-hidden': 'true' }, h('path', { d: `M${values.map(place).join('L')}` })),
		h('figcaption.muted', `The ${metric}, from ${number(values[0], 3)} to ${number(values.at(-1), 3)} (lowest ${number(low, 3)}, highest ${number(high, 3)})`));
}

async function trained(name) {
	const { stage, base, data, exports, steps, tokens, curve } = await get(`/api/models/${encodeURIComponent(name)}`).catch(() => ({}));
	return stage || curve ? h('section.card', h('h3', { dir: 'auto' }, name), facts({ Stage: stage, Base_model: base && `${base.name} (weights ${base.weights.slice(0, 12)})`, Data: data?.join(', '),
		Feedback: exports?.map((one) => `${one.file}: export ${one.export} of ${one.at.slice(0, 10)}, ${count(one.records, 'record')}`).join('; '),
		Length: steps && `${count(steps, 'step')}, ${size(tokens)} tokens` }), curve?.points.length > 1 && chart(curve)) : null;
}

/** Prometheus' text → { name: sum over labels }. */
function parse(text) {
	const values = {};
	for (const line of text.split('\n')) {
		const found = /^gptkit_(\w+)(?:\{[^}]*\})? (\S+)/.exec(line);
		if (found && !found[1].endsWith('_bucket')) values[found[1]] = (values[found[1]] ?? 0) + Number(found[2]);
	}
	return values;
}

function open(main) {
	const now = h('div');
	const training = h('div');
	const { models: served, rewards } = session();
	main.append(
		table('Served models', ['Model', 'Context', 'Parameters', 'Kind', 'Data type', 'Use', 'Weights'], served.map((one) => [one.name, `${number(one.context)} tokens`, size(one.n_params), one.kind, one.dtype, one.chat ? 'chat' : 'text', h('code', one.weights.slice(0, 15))])),
		h('p', rewards.length ? `Reward models: ${rewards.join(', ')}.` : 'No reward model is served.'), h('h2', 'Now'), now, training);
	Promise.all([...served.map((one) => one.name), ...rewards].map(trained)).then((all) => refill(training, all.some(Boolean) && [h('h2', 'Training'), h('div.grid.wide', all)]));
	let before = null;
	let timer = null;
	async function look() {
		clearTimeout(timer);
		if (!document.hidden) {
			try {
				const values = parse(await (await request('GET', '/metrics')).text());
				draw(values, performance.now());
			} catch (error) {
				refill(now, h('p', explain(error)));
			}
		}
		if (now.isConnected) timer = setTimeout(look, 2_000);
	}
	function draw(values, at) {
		const speed = before && ((values.generation_tokens_total - before.tokens) / (at - before.at)) * 1000;
		before = { tokens: values.generation_tokens_total, at };
		const first = values.time_to_first_token_seconds_sum / values.time_to_first_token_seconds_count;
		const each = values.inter_token_latency_seconds_count / values.inter_token_latency_seconds_sum;
		const figures = [
			['Tokens per second', speed === null ? '…' : number(speed)], ['Answers running', number(values.requests_running ?? 0)], ['Requests in the queue', number(values.requests_waiting ?? 0)],
			['Tokens per second of one answer, mean', each > 0 ? number(each) : '…'], ['Time to first token', Number.isFinite(first) ? `${number(first * 1000)} ms` : '…'], ['Memory of the key-value cache', `${number((values.kv_cache_bytes ?? 0) / 1e6, 1)} MB (${percent(values.kv_cache_usage_ratio ?? 0)})`],
		];
		refill(now, boxes(figures));
	}
	look();
	return { close: () => clearTimeout(timer) };
}
