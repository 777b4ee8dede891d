// Requests, streams, and the outbox that keeps feedback until the server has stored it.

import { announce, count, problem, read, write } from './dom.js';

export class ApiError extends Error {
	constructor(status, code, message, retryAfter = null) {
		super(message);
		Object.assign(this, { status, code, retryAfter });
	}
}

let current = null;
/** The session: person, role, models, whether feedback is kept. */
export const session = () => current;
export const mayLabel = () => current.role !== 'user';
export const isAdmin = () => current.role === 'admin';
export const models = (chat) => current.models.filter((model) => chat === undefined || model.chat === chat);

export const handlers = { needKey: async () => false, changed: () => {} };

export const personName = () => read(localStorage, 'person', '');
export const setPersonName = (name) => write(localStorage, 'person', name || undefined);
export const setKey = (key) => write(sessionStorage, 'key', key || undefined);
export const hasKey = () => read(sessionStorage, 'key', '') !== '';

let online = navigator.onLine !== false;
export const isOnline = () => online;
function setOnline(value) {
	if (online === value) return;
	online = value;
	announce(value ? 'The server can be reached again.' : 'The server cannot be reached.');
	if (!value) timer = setTimeout(flush, delay);
	handlers.changed();
}
addEventListener('offline', () => setOnline(false));
addEventListener('online', () => flush());

let asking = null;
const askForKey = () => (asking ??= handlers.needKey().finally(() => { asking = null; }));

export async function request(method, path, body, { signal, person = personName(), quiet = false } = {}) {
	for (;;) {
		const headers = {};
		if (body !== undefined) headers['content-type'] = 'application/json';
		const key = read(sessionStorage, 'key', '');
		if (key) headers.authorization = `Bearer ${key}`;
		if (person && !current?.named) headers['x-gptkit-person'] = encodeURIComponent(person);
		let response;
		try {
			response = await fetch(path, { method, headers, signal, cache: 'no-store', body: body === undefined ? undefined : JSON.stringify(body) });
		} catch (error) {
			if (error.name === 'AbortError') throw error;
			setOnline(false);
			throw new ApiError(0, 'offline', 'The server cannot be reached.');
		}
		setOnline(true);
		if (response.status === 401 && !quiet && (await askForKey())) continue;
		if (!response.ok) throw await errorOf(response);
		return response;
	}
}

async function errorOf(response) {
	const error = await response.json().then((value) => value.error, () => null);
	const after = Number(response.headers.get('retry-after')) || null;
	return new ApiError(response.status, error?.code ?? null, error?.message ?? `The server answered ${response.status}.`, after);
}

export const get = async (path) => (await request('GET', path)).json();
export const post = async (path, body, options) => (await request('POST', path, body, options)).json();

export async function loadSession() {
	current = await get('/api/session');
	return current;
}
export async function setConsent(consent) {
	current = await post('/api/session', { consent });
	handlers.changed();
}

/** An error as a sentence. */
export function explain(error) {
	const message = error.message.replace(/^./, (letter) => letter.toUpperCase()).replace(/[.!?]?$/, '.');
	if (error.status === 429) return `The server is busy. ${message}`;
	return message;
}

/** An answer that did not begin. */
export function failure(error) {
	const outcome = error.name === 'AbortError' ? { state: 'stopped' } : { state: 'failed', fault: explain(error), retryAfter: error.retryAfter };
	return { choices: [], n: 0, ...outcome };
}

/**
 * Streams an answer to `onText(index, piece)`. Returns { id, choices: [{ text, finish, tokens }], n, gptkit, state, fault,
 * retryAfter }; `state` is 'done', 'stopped', 'broken' (without [DONE]) or 'failed', `fault` a sentence about the last two.
 */
export async function stream(path, body, { signal, onText = () => {} } = {}) {
	const answer = { id: null, choices: [], n: 0, gptkit: null, state: 'broken', fault: null };
	let response;
	try {
		response = await request('POST', path, { ...body, stream: true, stream_options: { include_usage: true } }, { signal });
	} catch (error) {
		return failure(error);
	}
	const take = (data) => {
		if (data === '[DONE]') return (answer.state = 'done');
		const chunk = JSON.parse(data);
		if (chunk.error) return Object.assign(answer, { state: 'failed', fault: explain(chunk.error) });
		answer.id ??= chunk.id;
		answer.gptkit = chunk.gptkit ?? answer.gptkit;
		for (const part of chunk.choices ?? []) {
			const choice = (answer.choices[part.index] ??= { text: '', finish: null, tokens: [] });
			const piece = part.delta ? part.delta.content ?? '' : part.text ?? '';
			const tokens = tokensOf(part.logprobs);
			choice.tokens.push(...tokens);
			choice.finish = part.finish_reason ?? choice.finish;
			answer.n += tokens.length || (piece ? 1 : 0);
			if (!piece) continue;
			choice.text += piece;
			onText(part.index, piece);
		}
	};
	try {
		const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
		let rest = '';
		for (;;) {
			const { done, value } = await reader.read();
			if (done) break;
			const lines = (rest + value).split('\n');
			rest = lines.pop();
			for (const line of lines) if (line.startsWith('data:')) take(line.slice(5).trim());
		}
	} catch (error) {
		if (error.name === 'AbortError') answer.state = 'stopped';
	}
	if (answer.state === 'broken') answer.fault = `The connection was lost after ${count(answer.n, 'token')}.`;
	return answer;
}

/** [token, log-probability, [[token, log-probability] of other tokens]] from either endpoint's form. */
function tokensOf(logprobs) {
	if (!logprobs) return [];
	if (logprobs.content) {
		return logprobs.content.map((one) => [one.token, one.logprob, (one.top_logprobs ?? []).map((top) => [top.token, top.logprob])]);
	}
	return (logprobs.tokens ?? []).map((token, i) =>
		[token, logprobs.token_logprobs[i], Object.entries(logprobs.top_logprobs?.[i] ?? {})]);
}

// Outbox. Every record is written to localStorage before it is sent, and removed when the server has acknowledged it. The
// server stores a client_id once, so a record that is sent again is not stored twice.

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
let lastTime = 0;
/** A ULID: later ones sort after earlier ones. */
export function ulid() {
	lastTime = Math.max(Date.now(), lastTime + 1);
	const time = Array.from({ length: 10 }, (_, i) => Math.floor(lastTime / 32 ** (9 - i)) % 32);
	return [...time, ...crypto.getRandomValues(new Uint8Array(16))].map((n) => ALPHABET[n % 32]).join('');
}

const PREFIX = 'outbox.'; // after the prefix of dom.js
const entries = () => Object.keys(localStorage).filter((key) => key.startsWith(`gptkit.${PREFIX}`)).map((key) => key.slice(7)).sort();
const entry = (key) => read(localStorage, key, null);
const forget = (key) => write(localStorage, key, undefined);
const isMine = (one) => one && (!current?.named || one.person === current.person);
export const waiting = () => entries().filter((key) => isMine(entry(key))).length;

const refusals = new Map();

/** Sends feedback, after what waits. Returns 'sent', or 'kept' when it is sent later. Throws when the server refuses it. */
export async function send(path, record) {
	const key = PREFIX + record.client_id;
	const person = current.named ? current.person : personName();
	const one = { path, record, person };
	if (!write(localStorage, key, one)) return post(path, record).then(() => 'sent'); // the browser's storage is full
	handlers.changed();
	await flush(key);
	const refusal = refusals.get(key);
	refusals.delete(key);
	if (refusal) throw refusal;
	return entry(key) ? 'kept' : 'sent';
}

let flushing = null;
let timer = null;
let delay = 2_000;
let failing = false;
export const isFailing = () => failing;

/** Sends what waits, in order, one tab at a time. */
export async function flush(own) {
	while (flushing) await flushing;
	const run = () => sendAll(own);
	flushing = (navigator.locks ? navigator.locks.request('gptkit.outbox', run) : run()).finally(() => { flushing = null; });
	await flushing;
}

async function sendAll(own) {
	clearTimeout(timer);
	let failed = null;
	for (const key of entries()) {
		const one = entry(key);
		if (!isMine(one)) continue;
		try {
			await request('POST', one.path, one.record, { person: one.person, quiet: key !== own });
			forget(key);
		} catch (error) {
			if ([0, 401, 408, 429].includes(error.status) || error.status >= 500) {
				failed = error;
				break;
			}
			forget(key);
			if (key === own) refusals.set(key, error);
			else problem(`The server refused a record that was kept on this device. ${explain(error)}`);
		}
	}
	if (failed?.status === 507) problem(`The server cannot store feedback now. ${explain(failed)} Your record is kept on this device.`);
	if (!failed && !online) failed = await request('GET', '/health', undefined, { quiet: true }).then(() => null, (error) => error);
	failing = failed !== null;
	delay = failed ? Math.min(delay * 2, 30_000) : 2_000;
	if (failed) timer = setTimeout(flush, delay);
	handlers.changed();
}
