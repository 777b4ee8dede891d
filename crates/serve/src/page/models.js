// Models: what is served, and how fast it is now.

import { explain, request, session } from './api.js';
import { h, number, percent, refill } from './dom.js';
import { table } from './data.js';

export const models = { path: '/served', title: 'Models', about: 'The served models, and how fast they are now.', keys: [], open };

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
	const size = (n) => (n >= 1e9 ? `${number(n / 1e9, 1)} B` : n >= 1e6 ? `${number(n / 1e6, 1)} M` : number(n));
	const now = h('div');
	const { models: served, rewards } = session();
	main.append(
		table('Served models', ['Model', 'Context', 'Parameters', 'Kind', 'Data type', 'Use', 'Weights'], served.map((one) => [one.name, `${number(one.context)} tokens`, size(one.n_params), one.kind, one.dtype, one.chat ? 'chat' : 'text', h('code', one.weights.slice(0, 15))])),
		h('p', rewards.length ? `Reward models: ${rewards.join(', ')}.` : 'No reward model is served.'), h('h2', 'Now'), now);
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
		const figures = [
			['Tokens per second', speed === null ? '…' : number(speed)], ['Answers running', number(values.requests_running ?? 0)], ['Requests in the queue', number(values.requests_waiting ?? 0)],
			['Time to first token', Number.isFinite(first) ? `${number(first * 1000)} ms` : '…'], ['Prompt tokens from the cache', number(values.prompt_tokens_cached_total ?? 0)], ['Key-value cache in use', percent(values.kv_cache_usage_ratio ?? 0)],
		];
		refill(now, h('dl.figures', figures.map(([name, value]) => h('div', h('dt', name), h('dd', value)))));
	}
	look();
	return { close: () => clearTimeout(timer) };
}
