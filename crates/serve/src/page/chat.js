// Chat: a conversation as a tree of branches.

import { mayLabel, models, session, stream } from './api.js';
import { announce, button, copyText, count, download, field, h, mainButton, newId, number, problem, prose, read, refill, secondsSince, select, Sentences, write } from './dom.js';
import { converse, countTokens, fault, fold, modelOptions, record, save, Settings, tokenView } from './settings.js';

const STARTERS = ['What is 3 plus 4?', 'Tell me a short story.', 'Who are you?'];
const fresh = () => ({ next: 1, system: '', nodes: { 0: { id: 0, role: 'root', children: [], shown: 0 } } });

const MOST_KEPT = 20;
const shelf = () => `chats.${session().person}`; // of localStorage: conversations that were left, the newest first

let tree = null; // survives a change of the screen
let model = null;
let showTokens = read(localStorage, 'showTokens', false);

const tokensOf = new WeakMap(); // tokens of answers; they are not kept when the page is closed
const keep = () => write(sessionStorage, 'chat', tree);
/** A conversation that was kept, as it can be shown again. */
function revived(kept) {
	for (const node of Object.values(kept.nodes)) {
		if (node.state === 'writing') Object.assign(node, { state: 'broken', fault: 'The page was closed while the answer was being written.' });
		delete node.editing;
		delete node.doneAt; // of another clock
	}
	return kept;
}

function add(parent, fields) {
	const node = { id: tree.next++, parent: parent.id, children: [], shown: 0, ...fields };
	tree.nodes[node.id] = node;
	parent.shown = parent.children.push(node.id) - 1;
	return node;
}
const nodeOf = (id) => tree.nodes[id];
const shownChild = (node) => nodeOf(node.children[node.shown]);
function shownPath() {
	const path = [];
	for (let node = shownChild(nodeOf(0)); node; node = shownChild(node)) path.push(node);
	return path;
}
/** The messages up to `node`, with the system message. */
function messagesTo(node) {
	const messages = [];
	for (let one = node; one.id; one = nodeOf(one.parent)) messages.unshift({ role: one.role, content: one.content });
	return tree.system.trim() ? [{ role: 'system', content: tree.system.trim() }, ...messages] : messages;
}

export const chat = {
	path: '/', title: 'Chat',
	about: 'Talk with a model. Editing your turn or retrying an answer begins a new branch; the old one stays.',
	keys: [['Enter', 'Send'], ['Shift+Enter', 'New line'], ['Esc', 'Stop the answer'], ['Alt+R', 'Retry the last answer'],
		['↑', 'In the empty box: edit your last turn'], ['+', 'Good answer'], ['-', 'Bad answer']],
	open,
};

function open(main) {
	const all = models();
	model ??= read(localStorage, 'model', '');
	model = (all.find((one) => one.name === model) ?? all[0]).name;
	const body = h('div.fill');
	const tools = h('div.row.quiet');
	const picker = select(modelOptions(), model, { onchange: () => {
		model = picker.value;
		write(localStorage, 'model', model);
		draw();
	} });
	main.append(h('div.row.top', field('Model', picker), tools), body);
	let part = null;
	const draw = () => {
		part?.close();
		part = (models().find((one) => one.name === model).chat ? dialogue : continuation)(body, tools);
	};
	draw();
	return { close: () => part.close(), get keys() { return part.keys; } };
}

const HAND = 'M2 9h4v11H2zM8 20V9.5L12 2c1.6 0 2.6 1.2 2.2 2.8L13.4 8H20c1.3 0 2.2 1.2 1.9 2.4l-1.9 8c-.2 1-1 1.6-2 1.6z';
const hand = (turn) => h('svg', { viewBox: '0 0 24 24', width: 18, height: 18, 'aria-hidden': 'true' }, h('path', { d: HAND, transform: `rotate(${turn} 12 12)` }));

/** Where pieces of an answer arrive: keeps the end in view if it was in view. */
function follow(change) {
	const near = innerHeight + scrollY > document.documentElement.scrollHeight - 120;
	change();
	if (near) scrollTo(0, document.documentElement.scrollHeight);
}

function dialogue(body, bar) {
	tree ??= revived(read(sessionStorage, 'chat', null) ?? fresh());
	let running = null; // { node, abort }
	const settings = new Settings('chat');
	const system = h('textarea', { value: tree.system, rows: 2, oninput: () => {
		tree.system = system.value;
		keep();
		recount();
	} });
	const list = h('ol.turns', { 'aria-label': 'Conversation' });
	const box = h('textarea', { rows: 1, placeholder: 'Message', 'aria-label': 'Message', oninput: () => recount(), onkeydown: (event) => {
		if (event.isComposing) return;
		if (event.key === 'Enter' && !event.shiftKey) {
			event.preventDefault();
			submit();
		} else if (event.key === 'ArrowUp' && box.value === '') {
			const own = shownPath().findLast((node) => node.role === 'user');
			if (own && !running) {
				event.preventDefault();
				edit(own);
			}
		}
	} });
	const sendButton = mainButton('Send', () => (running ? stop() : submit()));
	const left = h('span.muted.grow');
	const exportButton = button('Export', () => {
		const messages = messagesTo(shownPath().at(-1));
		download('dialogue.jsonl', `${JSON.stringify({ messages })}\n`);
		announce('The shown branch was exported.');
	});
	const newButton = button('New chat', () => change({ ...fresh(), system: tree.system }, read(localStorage, shelf(), []), 'New chat.'));
	/** Shows the conversation `to`, and keeps the one before it with the `others`. */
	function change(to, others, what) {
		stop();
		const kept = tree.nodes[0].children.length ? [tree, ...others] : others;
		write(localStorage, shelf(), kept.slice(0, MOST_KEPT));
		tree = revived(to);
		system.value = tree.system;
		keep();
		draw();
		box.focus();
		announce(what);
	}
	const earlier = h('div');
	function drawEarlier() {
		const all = read(localStorage, shelf(), []);
		const item = (one, i) => {
			const others = all.toSpliced(i, 1);
			const name = one.nodes[one.nodes[0].children[0]].content.slice(0, 60);
			return h('li.row', button(name, () => change(one, others, 'The conversation was opened.'), { 'data-k': `open${i}`, dir: 'auto' }), button('Delete', () => {
				write(localStorage, shelf(), others);
				drawEarlier();
			}, { 'aria-label': `Delete ${name}` }));
		};
		refill(earlier, all.length ? h('ul.plain', all.map(item)) : h('p', 'None on this device. New chat keeps the conversation here.'));
	}
	const composer = h('div.composer', box, h('div.row', sendButton, left));
	bar.replaceChildren(newButton, tokensToggle(() => draw()), exportButton);
	refill(body,
		fold('System message and settings', field('System message', system, 'Comes first in every request. Empty: none.'), h('div.grid', settings.fields)), fold('Earlier conversations', earlier),
		!session().feedback && h('p.note', 'This server keeps no feedback: votes and corrections are not stored.'), list, composer);

	// Tokens left in the window.
	let recounting = null;
	let draft = 0;
	function recount() {
		clearTimeout(recounting);
		recounting = setTimeout(async () => {
			const mine = ++draft;
			const path = shownPath();
			const messages = messagesTo(path.at(-1) ?? nodeOf(0));
			if (box.value.trim()) messages.push({ role: 'user', content: box.value.trim() });
			if (!messages.some((message) => message.role !== 'system') || path.at(-1)?.content === '') return (left.textContent = windowText());
			const counted = await countTokens(model, messages).catch(() => null);
			if (mine !== draft || !counted) return;
			const free = counted.max_model_len - counted.count;
			left.textContent = free > 0 ? `${number(free)} of ${number(counted.max_model_len)} tokens left` : `The window of ${number(counted.max_model_len)} tokens is full. The oldest turns will be left out.`;
		}, 350);
	}
	const windowText = () => `Window of ${number(models().find((one) => one.name === model).context)} tokens`;

	async function submit() {
		const text = box.value.trim();
		if (!text || running) return;
		const parent = shownPath().at(-1) ?? nodeOf(0);
		if (parent.content === '' && parent.state !== 'done') problem('The last turn has no answer yet. Try again first.');
		else if (await generate(() => add(parent, { role: 'user', content: text }))) box.value = '';
		box.focus();
	}

	/** Answers the turn that `turn` returns. `previous` is the answer that a retry is compared with. */
	async function generate(turn, previous = null) {
		const sampling = settings.values();
		if (!sampling) return false;
		const user = turn();
		if (previous && sampling.seed !== undefined) sampling.seed += user.children.length;
		const node = add(user, { role: 'assistant', content: '', model, state: 'writing' });
		const abort = new AbortController();
		running = { node, abort };
		draw();
		scrollTo(0, document.documentElement.scrollHeight);
		answer(node, user, sampling, previous, abort);
		return true;
	}

	async function answer(node, user, sampling, previous, abort) {
		const sentences = new Sentences();
		const request = { model, messages: messagesTo(user), ...sampling, logprobs: true, top_logprobs: showTokens ? 3 : undefined };
		const done = await converse(request, {
			signal: abort.signal,
			onFit: (omitted) => {
				node.omitted = omitted;
				if (omitted) draw();
			},
			onText: (_, piece) => {
				node.content += piece;
				sentences.add(piece);
				follow(() => list.querySelector('.writing')?.append(piece));
			},
		});
		const { state, fault: why, retryAfter, gptkit, n, id, messages } = done;
		Object.assign(node, { state, fault: why, retryAfter, gptkit, n, sent: messages, finish: done.choices[0]?.finish });
		tokensOf.set(node, done.choices[0]?.tokens ?? []);
		if (state === 'done' && session().feedback) node.answer = { request: id, choice: 0 };
		sentences.end();
		announce({ stopped: 'The answer was stopped.', broken: node.fault, done: node.finish === 'length' ? 'The answer was cut off.' : 'The answer is complete.' }[state]);
		node.doneAt = performance.now();
		if (previous && node.answer && previous.answer && mayLabel()) {
			node.offer = previous.id;
			if (previous.content !== node.content) announce('You can say which answer is better, after the new answer.');
		}
		running = null;
		keep();
		if (list.isConnected) follow(draw);
	}

	const stop = () => running?.abort.abort();

	function retry(node) {
		if (running) return;
		const user = nodeOf(node.parent);
		if (node.content === '' && node.state !== 'done') { // nothing is lost with an answer that has no text
			user.children = user.children.filter((id) => id !== node.id);
			delete tree.nodes[node.id];
			user.shown = Math.max(0, user.children.length - 1);
			return generate(() => user);
		}
		generate(() => user, node);
	}

	function edit(node) {
		node.editing = true;
		draw();
		const area = list.querySelector(`[data-k="${node.id}:edit-box"]`);
		area.focus();
		area.setSelectionRange(area.value.length, area.value.length);
	}

	function show(node, index, key) {
		nodeOf(node.parent).shown = index;
		keep();
		draw();
		announce(`Branch ${index + 1} of ${nodeOf(node.parent).children.length}.`);
		const now = shownPath().find((one) => one.parent === node.parent);
		list.querySelector(`[data-k="${now.id}:${key}"]:not(:disabled), [data-k^="${now.id}:"]:not(:disabled)`)?.focus();
	}

	async function thumb(node, value) {
		if (!node.answer) return;
		const again = node.thumb === value;
		const rating = record({ answer: node.answer, thumb: again ? undefined : value, supersedes: node.rating });
		const before = [node.thumb, node.rating];
		[node.thumb, node.rating] = [again ? null : value, rating.client_id];
		draw();
		if (!(await save('/api/ratings', rating, again ? 'The rating was taken back.' : 'The rating was saved.'))) {
			[node.thumb, node.rating] = before;
			draw();
		}
		keep();
	}

	async function prefer(node, places) {
		const earlier = nodeOf(node.offer);
		node.offer = null;
		if (places) {
			const ranking = record({ answers: [earlier.answer, node.answer], ranking: places, shown: [0, 1], blind: false, seconds: node.doneAt && secondsSince(node.doneAt) });
			if (places[0] < places[1]) nodeOf(node.parent).shown = nodeOf(node.parent).children.indexOf(earlier.id);
			await save('/api/rankings', ranking, 'The comparison was saved.');
		}
		keep();
		draw();
		box.focus();
	}

	function draw() {
		const path = shownPath();
		refill(list, path.map(turnItem));
		if (!path.length) {
			list.append(h('li', h('p', 'Write a message, or begin with one of these:'),
				h('div.row', STARTERS.map((text) => button(text, () => {
					box.value = text;
					submit();
				})))));
		}
		sendButton.textContent = running ? 'Stop (Esc)' : 'Send';
		drawEarlier();
		exportButton.disabled = !path.length;
		recount();
	}

	function turnItem(node) {
		const own = node.role === 'user';
		const who = own ? 'You' : node.written ? 'You, for the assistant' : node.model;
		return h('li', { class: `turn ${node.role}` },
			node.omitted ? h('p.note', `${node.omitted === 1 ? 'The oldest turn is' : `The ${node.omitted} oldest turns are`} left out of the request: the window is full.`) : null,
			h('h2', who), node.editing ? editor(node) : [textOf(node), tools(node)], node.offer && offer(node));
	}

	function textOf(node) {
		if (node.state === 'writing') return prose(node.content, '.writing', { 'aria-busy': 'true' });
		const parts = [];
		if (showTokens && tokensOf.get(node)?.length) parts.push(tokenView(tokensOf.get(node)));
		else if (node.content) parts.push(prose(node.content));
		else if (node.state === 'done') parts.push(prose('The answer is empty.', '.empty'));
		if (node.state === 'stopped') parts.push(h('p.muted', 'Stopped.'));
		else if (node.fault) parts.push(fault(node, () => retry(node)));
		return parts;
	}

	function tools(node) {
		if (node.state === 'writing') return null;
		const siblings = nodeOf(node.parent).children;
		const at = siblings.indexOf(node.id);
		const tool = (key, label, onclick, props = {}) => button(label, onclick, { 'data-k': `${node.id}:${key}`, disabled: running !== null, ...props });
		const buttons = [];
		if (siblings.length > 1) {
			const turn = (key, label, to, which) => tool(key, label, () => show(node, to, key), { 'aria-label': `${which} branch`, disabled: !siblings[to] || running !== null });
			buttons.push(h('span.branches', turn('prev', '‹', at - 1, 'Earlier'), h('span.muted', `${at + 1} of ${siblings.length}`), turn('next', '›', at + 1, 'Later')));
		}
		if (node.content) buttons.push(tool('copy', 'Copy', () => copyText(node.content), { disabled: false }));
		if (node.role === 'user') buttons.push(tool('edit', 'Edit', () => edit(node)));
		else {
			if (!node.written && node.state !== 'failed' && !node.fault) buttons.push(tool('retry', 'Retry', () => retry(node)));
			if (node.answer) {
				for (const [way, turn, what] of [['up', 0, 'Good'], ['down', 180, 'Bad']]) {
					buttons.push(tool(way, hand(turn), () => thumb(node, way), { 'aria-label': `${what} answer`, 'aria-pressed': String(node.thumb === way), disabled: false }));
				}
				if (mayLabel()) buttons.push(tool('better', 'Write a better answer', () => edit(node)));
			}
		}
		const about = [];
		if (node.finish === 'length') about.push('cut off at the limit');
		if (node.n) about.push(count(node.n, 'token'));
		if (node.gptkit) about.push(`${number(node.gptkit.tokens_per_s)} tokens/s`, `seed ${node.gptkit.seed}`);
		return h('div.tools.quiet', buttons, about.length > 0 && h('small.about', about.join(' · ')));
	}

	/** The editor of a turn: a branch of one's own turn, or a better answer. */
	function editor(node) {
		const own = node.role === 'user';
		const began = performance.now();
		const area = h('textarea', { value: node.content, rows: 3, 'aria-label': own ? 'Your turn' : 'The better answer', 'data-k': `${node.id}:edit-box`, onkeydown: (event) => {
			if (event.key === 'Escape') {
				event.preventDefault();
				leave();
			} else if (event.key === 'Enter' && (own ? !event.shiftKey : event.ctrlKey || event.metaKey) && !event.isComposing) {
				event.preventDefault();
				done();
			}
		} });
		const leave = () => {
			delete node.editing;
			draw();
			list.querySelector(`[data-k="${node.id}:${own ? 'edit' : 'better'}"]`)?.focus();
		};
		const done = async () => {
			const text = area.value.trim();
			if (!text || running) return area.focus();
			if (text === node.content && !own) return leave();
			delete node.editing;
			const parent = nodeOf(node.parent);
			if (own) {
				if (!(await generate(() => add(parent, { role: 'user', content: text })))) edit(node);
				return box.focus();
			}
			const messages = [...node.sent, { role: 'assistant', content: text }];
			add(parent, { role: 'assistant', content: text, state: 'done', written: true });
			keep();
			draw();
			box.focus();
			await save('/api/demonstrations', record({ messages, based_on: node.answer, seconds: secondsSince(began) }), 'The better answer was saved, and the conversation continues with it.');
		};
		return h('div', area, h('div.row', mainButton(own ? 'Send as a new branch' : 'Save the better answer', done), button('Cancel', leave),
			h('small', own ? 'Enter sends, Esc cancels' : 'Ctrl+Enter saves, Esc cancels')));
	}

	function offer(node) {
		const earlier = nodeOf(node.offer);
		const heading = h('h3', { id: newId() }, 'Which answer is better?');
		if (earlier.content === node.content) return h('p.muted', 'The new answer is the same as the earlier one.');
		const vote = (label, places, key) => button(label, () => prefer(node, places), { 'data-k': `${node.id}:${key}` });
		return h('section.choice', { 'aria-labelledby': heading.id }, heading,
			h('p.muted', 'The new answer is above. The earlier answer was:'), prose(earlier.content, '.card.gap'),
			h('div.row', vote('The earlier answer', [1, 2], 'earlier'), vote('The new answer', [2, 1], 'new'), vote('A tie', [1, 1], 'tie'), vote('Skip', null, 'skip')));
	}

	const last = () => shownPath().findLast((node) => node.role === 'assistant');
	draw();
	return {
		close: () => {
			stop();
			clearTimeout(recounting);
		},
		keys: {
			Escape: () => (running ? stop() : false), 'Alt+KeyR': () => (last() && !last().written ? retry(last()) : false),
			'+': () => (last() ? thumb(last(), 'up') : false), '-': () => (last() ? thumb(last(), 'down') : false),
		},
	};
}

function tokensToggle(draw) {
	const toggle = button('Show tokens', () => {
		showTokens = !showTokens;
		write(localStorage, 'showTokens', showTokens);
		toggle.setAttribute('aria-pressed', showTokens);
		draw();
	}, { 'aria-pressed': String(showTokens) });
	return toggle;
}

let baseText = '';
/** A model that was not trained for dialogue continues a text. */
function continuation(body, bar) {
	let abort = null;
	let undo = [];
	let tokens = [];
	const settings = new Settings('text');
	const area = h('textarea', { rows: 10, value: baseText, oninput: () => (baseText = area.value) });
	const again = h('div');
	const view = h('div');
	const go = mainButton('Continue', () => (abort ? abort.abort() : run()));
	const back = button('Remove the continuation', () => {
		area.value = baseText = undo.pop();
		tokens = [];
		draw();
		area.focus();
		announce('The continuation was removed.');
	});
	const draw = () => {
		go.textContent = abort ? 'Stop (Esc)' : 'Continue';
		back.disabled = !undo.length || abort !== null;
		view.replaceChildren(...(showTokens && tokens.length && !abort ? [tokenView(tokens)] : []));
	};
	async function run() {
		const sampling = settings.values();
		if (!sampling) return;
		if (!area.value) return area.focus();
		const sentences = new Sentences();
		abort = new AbortController();
		undo.push(area.value);
		area.readOnly = true;
		again.replaceChildren();
		draw();
		const done = await stream('/v1/completions', { model, prompt: area.value, max_tokens: 100, ...sampling, logprobs: 3 }, { signal: abort.signal, onText: (_, piece) => {
			area.value += piece;
			area.scrollTop = area.scrollHeight;
			sentences.add(piece);
		} });
		tokens = done.choices[0]?.tokens ?? [];
		sentences.end();
		baseText = area.value;
		if (undo.at(-1) === baseText) undo.pop();
		abort = null;
		area.readOnly = false;
		if (done.fault) again.replaceChildren(fault(done, run));
		else announce('The continuation is complete.');
		draw();
	}
	body.replaceChildren(
		h('p.note', 'This model was not trained for dialogue. It continues a text.'),
		fold('Settings', h('div.grid', settings.fields)),
		field('Text', area, 'Ctrl+Enter continues the text. Without max tokens, it continues for up to 100 tokens.'), again,
		h('div.row', go, back), view);
	bar.replaceChildren(tokensToggle(() => draw()));
	draw();
	return {
		close: () => abort?.abort(),
		keys: { Escape: () => (abort ? abort.abort() : false), 'Ctrl+Enter': () => (abort ? false : run()) },
	};
}
