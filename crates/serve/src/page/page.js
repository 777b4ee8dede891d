// The frame: session, navigation, keys, help, and the person who uses the page.

import * as api from './api.js';
import { button, clearProblems, count, dialog, field, h, mainButton, isTyping, problem, read, write } from './dom.js';
import { chat } from './chat.js';
import { compare } from './compare.js';
import { label } from './label.js';
import { writing } from './write.js';
import { data } from './data.js';
import { models } from './models.js';

// A screen: { path, title, keys: [[key, effect]], open(main) → { close(), keys: { name: f } } }. A key's function
// returns false when it does nothing.
const SCREENS = [chat, compare, label, writing, data, models];
const NEED_LABELER = new Set([label, writing, data]);

/** Why the session may not use a screen, or null. */
function barrier(screen) {
	const { feedback, role } = api.session();
	if (NEED_LABELER.has(screen) && !feedback) return 'This server keeps no feedback, so this screen is not available.';
	if ((NEED_LABELER.has(screen) || (screen === compare && feedback)) && role === 'user') {
		return 'This screen is for labelers and administrators.';
	}
	return null;
}

const main = document.getElementById('main');
const menu = document.getElementById('menu');
const nav = document.getElementById('nav');
let screen = null;
let opened = null;

const screenAt = (path) => SCREENS.find((one) => one.path === path) ?? chat;

function go(path, { focus = true } = {}) {
	opened?.close?.();
	screen = screenAt(path);
	opened = null;
	document.title = `${screen.title} - gptkit`;
	drawLinks();
	showMenu(false);
	clearProblems();
	main.className = `screen-${screen.title.toLowerCase()}`;
	const why = barrier(screen);
	const heading = h('h1', { tabindex: '-1' }, screen.title);
	main.replaceChildren(heading);
	if (why) main.append(h('p', why));
	else if (!api.models().length) main.append(h('p', 'No model is served.'));
	else opened = screen.open(main);
	scrollTo(0, 0);
	if (focus) heading.focus();
}

function drawLinks() {
	const link = (one) => h('li', h('a', {
		href: one.path,
		'aria-current': one === screen ? 'page' : false,
		onclick: (event) => {
			if (event.ctrlKey || event.metaKey || event.shiftKey) return;
			event.preventDefault();
			if (one.path !== location.pathname) history.pushState(null, '', one.path);
			go(one.path);
		},
	}, one.title));
	document.getElementById('links').replaceChildren(...SCREENS.filter((one) => !barrier(one)).map(link));
}
addEventListener('popstate', () => api.session() && go(location.pathname));

function showMenu(open) {
	menu.setAttribute('aria-expanded', open);
	nav.classList.toggle('open', open);
}
menu.addEventListener('click', () => showMenu(menu.getAttribute('aria-expanded') !== 'true'));

// Keys. Single keys work outside text boxes, and can be switched off.
const singleKeys = () => read(localStorage, 'singleKeys', true);
addEventListener('keydown', (event) => {
	if (event.defaultPrevented || event.isComposing || document.querySelector('dialog[open]')) return;
	if (event.key === 'Escape' && nav.classList.contains('open')) {
		showMenu(false);
		return menu.focus();
	}
	const name = `${event.ctrlKey || event.metaKey ? 'Ctrl+' : ''}${event.altKey ? `Alt+${event.code}` : event.key}`;
	const single = event.key.length === 1 && !event.altKey && !event.ctrlKey && !event.metaKey;
	const typing = isTyping(event.target);
	if (single && (typing || !singleKeys())) return;
	if (event.key === '?' && single) {
		event.preventDefault();
		return showHelp();
	}
	const handle = opened?.keys?.[name];
	if (handle && handle(event, typing) !== false) event.preventDefault();
});

const help = document.getElementById('help');
function showHelp() {
	return dialog('Help', (close) => {
		const rows = [...screen.keys, ['?', 'Show this help']];
		const box = h('input', { type: 'checkbox', checked: singleKeys(), onchange: () => write(localStorage, 'singleKeys', box.checked) });
		return [
			h('p', screen.about),
			h('h3', `Keys on the screen ${screen.title}`), h('dl.keys', rows.map(([key, effect]) => [h('dt', h('kbd', key)), h('dd', effect)])),
			h('label.check', box, 'Keys without Ctrl or Alt work outside text boxes'),
			h('p.muted', `gptkit ${api.session().version}`),
			h('div.row', mainButton('Close', () => close())),
		];
	});
}
help.addEventListener('click', showHelp);

// The person: name or key, and consent to training.
const personButton = document.getElementById('person');
function drawPerson() {
	const { named, feedback, person } = api.session();
	const name = named ? person : api.personName();
	personButton.hidden = !(feedback || named);
	personButton.textContent = name || 'Your name';
	personButton.setAttribute('aria-label', name ? `Person: ${name}` : 'Set your name');
}

function askPerson(first) {
	return dialog(first ? 'Before you start' : 'Person', (close) => {
		const { named, feedback, person, role, consent } = api.session();
		const name = !named && h('input', { type: 'text', value: api.personName(), autocomplete: 'nickname', maxlength: 80 });
		const agree = h('input', { type: 'checkbox', checked: consent });
		const submit = async (event) => {
			event.preventDefault();
			if (name) api.setPersonName(name.value.trim());
			close(true);
			try {
				if (name) await api.loadSession();
				if (feedback && agree.checked !== api.session().consent) await api.setConsent(agree.checked);
			} catch (error) {
				problem(api.explain(error));
			}
			drawPerson();
			drawLinks();
		};
		return h('form', { onsubmit: submit },
			name ? field('Your name', name, 'Votes and corrections are stored under this name.') : h('p', `You are ${person} (${role}).`),
			feedback && h('label.check', agree, 'My prompts, votes and corrections may be used to train models'),
			feedback && h('p.muted', 'They are stored on this server either way. You can change this at any time.'),
			h('div.row',
				h('button.main', 'Save'),
				button(first ? 'Not now' : 'Cancel', () => close()),
				named && button(api.hasKey() ? 'Change the key' : 'Enter a key', async () => {
					api.setKey('');
					if (await api.handlers.needKey()) location.reload();
				})));
	}).then(() => write(localStorage, 'asked', true));
}
personButton.addEventListener('click', () => askPerson(false));

api.handlers.needKey = () => dialog('API key', (close) => {
	const wrong = api.hasKey();
	const key = h('input', { type: 'password', autocomplete: 'off', required: true });
	const submit = (event) => {
		event.preventDefault();
		api.setKey(key.value.trim());
		close(true);
	};
	return h('form', { onsubmit: submit },
		h('p', wrong ? 'The server does not accept this key. Enter another one.' : 'Enter your key for this server.'),
		field('Key', key, 'It is kept until you close this tab.'),
		h('div.row', h('button.main', 'Use this key'), button('Cancel', () => close(false))));
}).then((given) => given === true);

api.handlers.changed = () => {
	const n = api.session() ? api.waiting() : 0;
	const kept = n ? `${count(n, 'record')} of feedback ${n === 1 ? 'waits' : 'wait'} on this device and will be sent.` : '';
	const text = !api.isOnline() ? `The server cannot be reached. ${kept || 'Nothing is lost.'}` : api.isFailing() ? kept : '';
	const line = document.getElementById('connection');
	if (line.textContent !== text) line.textContent = text;
};

async function start() {
	try {
		await api.loadSession();
	} catch (error) {
		main.replaceChildren(h('h1', 'gptkit'), h('p', { role: 'alert' }, api.explain(error)), mainButton('Try again', start));
		return;
	}
	drawPerson();
	go(location.pathname, { focus: false });
	const { feedback, consent, named } = api.session();
	api.flush();
	const unknown = (!named && !api.personName()) || !consent;
	if (feedback && unknown && !read(localStorage, 'asked', false)) await askPerson(true);
}
start();
