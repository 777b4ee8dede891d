// Sampling settings, the token view, and what screens share about answers.

import { explain, failure, models, post, send, session, stream, ulid } from './api.js';
import { announce, button, field, h, number, numberInput, numbersOf, percent, problem, read, select, write } from './dom.js';

export const modelOptions = (chat) => models(chat).map((model) => [model.name, model.name]);

const DEFAULTS = { temperature: 1, top_p: 1, max_tokens: undefined, seed: undefined };

/** Fields for the sampling settings, kept in the browser under `name`. */
export class Settings {
	constructor(name, names = Object.keys(DEFAULTS)) {
		this.name = `settings.${name}`;
		const kept = { ...DEFAULTS, ...read(localStorage, this.name, {}) };
		const all = {
			temperature: ['Temperature', numberInput(kept.temperature, 0, 2, 'any'), '0 always takes the most likely token.'],
			top_p: ['Top p', numberInput(kept.top_p, 0.01, 1, 'any'), 'Share of the probability that is sampled from.'],
			max_tokens: ['Max tokens', numberInput(kept.max_tokens, 1, 1e6, 1), 'Empty: up to the end of the window.'],
			seed: ['Seed', numberInput(kept.seed, 0, Number.MAX_SAFE_INTEGER, 1), 'Empty: drawn for each answer.'],
		};
		this.inputs = Object.fromEntries(names.map((one) => [one, all[one][1]]));
		this.fields = names.map((one) => {
			all[one][1].addEventListener('change', () => this.keep());
			return field(all[one][0], all[one][1], all[one][2]);
		});
	}
	keep() {
		const entries = Object.entries(this.inputs).filter(([, input]) => input.checkValidity() && input.value !== '');
		write(localStorage, this.name, Object.fromEntries(entries.map(([name, input]) => [name, Number(input.value)])));
	}
	/** For a request; null when a field is out of range. */
	values() {
		return numbersOf(this.inputs);
	}
}

export const fold = (title, ...children) => h('details', h('summary', title), children);

export const countTokens = (model, messages, options) => post('/tokenize', { model, messages }, options);

/** Streams an answer to a conversation. When the window is full, the oldest turns are left out; `onFit` gets their number. */
export async function converse({ model, messages, ...more }, options) {
	const system = messages.filter((message) => message.role === 'system');
	let turns = messages.slice(system.length);
	const all = turns.length;
	try {
		for (;;) {
			const { count, max_model_len: window } = await countTokens(model, [...system, ...turns], { signal: options.signal });
			const room = Math.max(1, Math.min(more.max_tokens ?? Infinity, Math.floor(window / 4)));
			if (count + room <= window || turns.length < 2) break;
			turns = turns.slice(turns[1].role === 'assistant' && turns.length > 2 ? 2 : 1);
		}
	} catch (error) {
		return failure(error);
	}
	const sent = [...system, ...turns];
	options.onFit?.(all - turns.length);
	const answer = await stream('/v1/chat/completions', { model, messages: sent, ...more, store: session().feedback || undefined }, options);
	return { ...answer, messages: sent };
}

const LEVELS = [[0.8, '80% or more'], [0.5, '50 to 80%'], [0.2, '20 to 50%'], [0.05, '5 to 20%'], [0, 'below 5%']];
const quoted = (token) => `“${token.replaceAll('\n', '↵').replaceAll('\t', '⇥') || '∅'}”`;

/** An answer's tokens, shaded by probability. A line below describes the token in focus. */
export function tokenView(tokens) {
	const line = h('p.tokenline', { 'aria-live': 'polite' }, 'Arrow keys move between tokens.');
	const describe = ([token, logProb, others]) => {
		const rest = (others ?? []).filter(([other]) => other !== token).map(([other, p]) => `${quoted(other)} ${percent(Math.exp(p))}`);
		line.textContent = `${quoted(token)}: ${percent(Math.exp(logProb))}, log-probability ${number(logProb, 3)}.${rest.length ? ` Others: ${rest.join(', ')}.` : ''}`;
	};
	const select = (i) => {
		spans.forEach((span, j) => {
			span.tabIndex = i === j ? 0 : -1;
			span.setAttribute('aria-selected', i === j);
		});
		describe(tokens[i]);
	};
	const spans = tokens.map(([token, logProb], i) => h('span', {
		role: 'option', 'aria-label': quoted(token), tabindex: i ? -1 : 0, 'aria-selected': 'false', class: `p${Math.max(0, LEVELS.findIndex(([least]) => Math.exp(logProb) >= least))}`, onfocus: () => select(i), onmouseenter: () => select(i),
	}, token.includes('\n') ? `↵${token}` : token || '∅'));
	const keys = (event) => {
		const at = spans.indexOf(event.target);
		const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
		if (at < 0 || !spans[to]) return;
		event.preventDefault();
		event.stopPropagation();
		spans[to].focus();
	};
	const list = h('div', { role: 'listbox', 'aria-orientation': 'horizontal', 'aria-label': 'Tokens of the answer', class: 'text tokens', dir: 'auto', onkeydown: keys }, spans);
	const sum = tokens.reduce((all, [, logProb]) => all + logProb, 0);
	return h('div', list, line,
		h('p.legend', `Mean log-probability ${number(sum / tokens.length, 3)}. Probability:`, LEVELS.map(([, label], i) => h('span', { class: `p${i}` }, label))));
}

/** Sends feedback. Returns a sentence for the person, or null after a problem was shown. */
export async function save(path, record, what = 'Saved.') {
	try {
		const kept = (await send(path, record)) === 'kept';
		const sentence = kept ? 'Kept on this device. It will be sent when the server can store it.' : what;
		announce(sentence);
		return sentence;
	} catch (error) {
		problem(`The server refused this record. ${explain(error)}`);
		return null;
	}
}
export const record = (fields) => ({ client_id: ulid(), ...fields });

/** What went wrong with an answer. */
export const reason = ({ fault, retryAfter }) => fault + (retryAfter ? ` There may be room in ${retryAfter} s.` : '');
/** A message about an answer or an error, with a button that tries again. */
export const fault = (answer, again) => h('div.fault', { role: 'alert' }, h('p', reason(answer)), h('div.row', button('Try again', again)));
