#!/usr/bin/env node
// The web page of `gptkit serve` in headless Chromium: every screen by keyboard and by pointer, faults, axe-core, screenshots.
//
//     node scripts/check_page.mjs URL SHOTS NODE
//
// URL is a server that keeps feedback, serves at least one chat model, and lets the person without a key be an admin. SHOTS is
// a folder for the screenshots. NODE is a folder in which `npm install puppeteer-core axe-core` was run. Chromium is found at
// CHROMIUM, or /usr/bin/chromium. Prints a line for each check, and ends with 1 when a check fails.
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [url, shots, node] = process.argv.slice(2);
if (!node) {
  console.error('usage: node scripts/check_page.mjs URL SHOTS NODE');
  process.exit(2);
}
const require = createRequire(path.resolve(node, 'package.json'));
const puppeteer = (await import(pathToFileURL(require.resolve('puppeteer-core')))).default;
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
fs.mkdirSync(shots, { recursive: true });

const HOSTILE = '<script>window.hostile=1</script><img src=x onerror="window.hostile=2"> \u202Eright to left\u202C \u001b[31m 👩‍👩‍👧 مرحبا';
const WIDTHS = [320, 768, 1280];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let failed = 0;

const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ['--no-sandbox'] });
const foreign = new Set();
const messages = [];
const weights = new Map();
const uncompressed = new Set();
let expected = false; // whether the browser is made to report failed requests

async function newPage() {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.on('console', (message) => !(expected && message.text().startsWith('Failed to load resource')) && messages.push(message.text()));
  page.on('pageerror', (error) => messages.push(error.stack));
  page.on('request', (request) => !/^(blob|data):/.test(request.url()) && !request.url().startsWith(url) && foreign.add(request.url()));
  page.on('response', async (response) => {
    const name = new URL(response.url()).pathname;
    if (name !== '/' && !name.startsWith('/page/')) return;
    weights.set(name, (await response.buffer().catch(() => '')).length);
    if (response.headers()['content-encoding'] !== 'gzip') uncompressed.add(name);
  });
  await page.setViewport({ width: 1280, height: 800 });
  return page;
}

async function check(name, run) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${error.stack.split('\n').slice(0, 4).join('\n      ')}`);
    await current?.screenshot({ path: path.join(shots, `failed-${failed}.png`) }).catch(() => {});
  }
}
function assert(condition, what) {
  if (!condition) throw new Error(what);
}

let current = null;
async function open(page, screen, person = 'Anna Müller') {
  current = page;
  await page.goto(url + screen);
  await page.waitForSelector('h1[tabindex]');
  const dialog = await page.waitForSelector('dialog[open]', { timeout: 700 }).catch(() => null);
  if (!dialog) return;
  const name = await dialog.$('input[type=text]');
  if (name) await name.type(person);
  await (await dialog.$('input[type=checkbox]')).click();
  await (await dialog.$('button.main')).click();
  await page.waitForFunction(() => !document.querySelector('dialog'));
  await sleep(300);
}
const text = (page, selector = 'main') => page.$eval(selector, (element) => element.innerText);
const until = (page, what, ...values) => page.waitForFunction(what, { timeout: 60_000, polling: 50 }, ...values);
const untilText = (page, part) => until(page, (part) => document.body.innerText.includes(part), part);
const idle = (page) => until(page, () => !document.querySelector('.writing, .loading'));
const press = async (page, ...keys) => {
  for (const key of keys.slice(0, -1)) await page.keyboard.down(key);
  await page.keyboard.press(keys.at(-1));
  for (const key of keys.slice(0, -1).reverse()) await page.keyboard.up(key);
};
/** Moves the focus with Tab until it is on an element that matches `selector` and has `label`. */
async function tabTo(page, selector, label = '') {
  for (let i = 0; i < 150; i++) {
    const there = await page.evaluate((selector, label) => {
      const one = document.activeElement;
      return one.matches(selector) && (one.getAttribute('aria-label') ?? one.innerText).includes(label);
    }, selector, label);
    if (there) return;
    await page.keyboard.press('Tab');
  }
  throw new Error(`Tab does not reach ${selector} ${label}`);
}
/** Clicks the button with this label by pointer. */
async function click(page, label, selector = 'button') {
  const handle = await page.evaluateHandle((label, selector) => [...document.querySelectorAll(selector)].findLast((one) =>
    (one.getAttribute('aria-label') ?? one.innerText) === label && !one.disabled), label, selector);
  assert(handle.asElement(), `there is no button ${label}`);
  await handle.asElement().click();
}
const counts = (page) => page.evaluate(async (name) => (await (await fetch('/api/feedback', { headers: { 'x-gptkit-person': name } })).json()).counts, encodeURIComponent('Anna Müller'));

/** axe-core (except target-size, which takes targets below a sticky box for small ones), no sideways scroll, targets of 44 px, and screenshots, at all widths, dark and light. */
async function inspect(page, name) {
  const problems = [];
  for (const scheme of ['light', 'dark']) {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
    for (const width of WIDTHS) {
      await page.setViewport({ width, height: width === 320 ? 640 : 800 });
      await sleep(60);
      await page.screenshot({ path: path.join(shots, `${name}-${width}-${scheme}.png`) });
      const found = await page.evaluate(() => {
        const wide = document.documentElement.scrollWidth > innerWidth ? [`scrolls sideways: ${document.documentElement.scrollWidth} px`] : [];
        const small = [...document.querySelectorAll('button, select, textarea, summary, nav a, input:not([type=checkbox], [type=radio]), .check, .scale label')]
          .map((one) => [one, one.getBoundingClientRect()])
          .filter(([one, box]) => box.width && one.checkVisibility() && !one.closest('.unseen') && (box.height < 43.5 || box.width < 43.5))
          .map(([one, box]) => `target ${one.tagName} ${one.innerText} has ${box.width} x ${box.height} px`);
        return [...wide, ...small];
      });
      problems.push(...found.map((one) => `${width} ${scheme}: ${one}`));
      if (width === 768) continue;
      if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(axe);
      const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], rules: { 'target-size': { enabled: false } } }));
      problems.push(...violations.map((one) => `${width} ${scheme}: axe ${one.id}: ${one.nodes.slice(0, 3).map((n) => `${n.target} ${n.any[0]?.message ?? ''}`).join(' | ')}`));
    }
  }
  await page.setViewport({ width: 1280, height: 800 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'light' }]);
  await sleep(50);
  assert(!problems.length, `${name}:\n      ${[...new Set(problems)].join('\n      ')}`);
}

const BOX = 'textarea[aria-label="Message"]';
const answered = async (page, n) => {
  await until(page, (n) => document.querySelectorAll('.turn.assistant .tools').length >= n && !document.querySelector('.writing'), n);
  await sleep(450); // the count of tokens
};

// By keyboard alone

const keyboard = await newPage();
await open(keyboard, '/');
await check('the person and the consent are stored', async () => {
  assert((await text(keyboard, '#person')) === 'Anna Müller', 'the name is not shown');
  const session = await keyboard.evaluate(async (name) => (await fetch('/api/session', { headers: { 'x-gptkit-person': name } })).json(), encodeURIComponent('Anna Müller'));
  assert(session.consent && session.person === 'Anna Müller', JSON.stringify(session));
});
await check('chat: empty', () => inspect(keyboard, 'chat-empty'));
await check('chat by keyboard: send, thumbs, retry and ranking, branches, better answer, tokens', async () => {
  const page = keyboard;
  const before = await counts(page);
  await tabTo(page, BOX);
  await page.keyboard.type('What is 3 plus 4?');
  await press(page, 'Enter');
  await answered(page, 1);
  assert(await page.$eval(BOX, (box) => box === document.activeElement && box.value === ''), 'the focus did not return to the box');
  assert((await text(page)).includes('tokens left'), 'tokens left are not shown');
  await tabTo(page, 'button', 'Good answer');
  await press(page, 'Space');
  await until(page, () => document.activeElement.getAttribute('aria-pressed') === 'true');
  await press(page, 'Alt', 'r');
  await until(page, () => !document.querySelector('.writing') && document.body.innerText.includes('2 of 2'));
  if ((await text(page)).includes('Which answer is better?')) {
    await inspect(page, 'chat-retry');
    await tabTo(page, 'button', 'The new answer');
    await press(page, 'Enter');
    await until(page, () => !document.querySelector('.choice'));
  } else assert((await text(page)).includes('the same as the earlier one'), 'no question after a retry');
  await tabTo(page, 'button', 'Earlier branch');
  await press(page, 'Enter');
  await untilText(page, '1 of 2');
  await tabTo(page, BOX);
  await press(page, 'ArrowUp');
  await until(page, () => document.activeElement.getAttribute('aria-label') === 'Your turn');
  await page.keyboard.type(' Please.');
  await press(page, 'Enter');
  await sleep(100);
  await answered(page, 1);
  assert((await text(page, '.turn.user')).includes('2 of 2'), 'the edit is not a branch');
  await tabTo(page, 'button', 'Write a better answer');
  await press(page, 'Enter');
  await until(page, () => document.activeElement.getAttribute('aria-label') === 'The better answer');
  await page.keyboard.type(' It is 7.');
  await inspect(page, 'chat-better');
  await press(page, 'Control', 'Enter');
  await untilText(page, 'You, for the assistant');
  await tabTo(page, 'button', 'Earlier branch');
  await tabTo(page, 'button', 'Show tokens');
  await press(page, 'Enter');
  await tabTo(page, '.turn.assistant button', 'Earlier branch');
  await press(page, 'Enter');
  await page.waitForSelector('.tokens');
  await tabTo(page, '.tokens [role=option]');
  await press(page, 'ArrowRight');
  assert((await text(page, '.tokenline')).includes('log-probability'), 'the token is not described');
  await inspect(page, 'chat-tokens');
  await sleep(300);
  const after = await counts(page);
  assert(after.ratings === before.ratings + 1 && after.demonstrations === before.demonstrations + 1, `counts ${JSON.stringify([before, after])}`);
  await press(page, 'Shift', 'Tab');
});
await check('earlier conversations by keyboard: keep, open, delete', async () => {
  const page = keyboard;
  await tabTo(page, 'button', 'New chat');
  await press(page, 'Enter');
  await untilText(page, 'begin with one of these');
  await tabTo(page, 'summary', 'Earlier conversations');
  await press(page, 'Enter');
  await tabTo(page, '.plain button', 'What is 3 plus 4?');
  await inspect(page, 'chat-earlier');
  await press(page, 'Enter');
  await until(page, () => document.querySelector('.turn.assistant'));
  await tabTo(page, 'button', 'New chat');
  await press(page, 'Enter');
  await tabTo(page, '.plain button', 'Delete');
  await press(page, 'Enter');
  await untilText(page, 'None on this device.');
});
await check('help and person by keyboard', async () => {
  await keyboard.keyboard.press('?');
  await keyboard.waitForSelector('dialog[open]');
  await inspect(keyboard, 'help');
  await press(keyboard, 'Escape');
  await until(keyboard, () => !document.querySelector('dialog'));
});
await check('compare by keyboard: blind, vote, undo, new prompt', async () => {
  const page = keyboard;
  await tabTo(page, 'nav a', 'Compare');
  await press(page, 'Enter');
  assert((await page.title()) === 'Compare - gptkit', 'the title did not change');
  const before = await counts(page);
  await tabTo(page, 'textarea');
  await page.keyboard.type('Tell me something.');
  await press(page, 'Control', 'Enter');
  await until(page, () => document.querySelector('.votes button:not(:disabled)'));
  assert(!(await text(page, '.pair')).includes('temperature'), 'the names are shown before the vote');
  await inspect(page, 'compare-vote');
  const saved = () => until(page, () => document.querySelector('.result')?.innerText.includes('The vote was saved.'));
  await press(page, '2');
  await saved();
  await inspect(page, 'compare-result');
  await tabTo(page, 'button', 'Undo the vote');
  await press(page, 'Enter');
  await until(page, () => document.querySelector('.votes button:not(:disabled)'));
  await press(page, 't');
  await untilText(page, 'A tie.');
  await saved();
  await press(page, 'n');
  await until(page, () => document.activeElement.matches('textarea') && document.activeElement.value === '');
  const after = await counts(page);
  assert(after.rankings === before.rankings + 1, `a vote, its undo and a vote: ${JSON.stringify([before, after])}`);
});
await check('label by keyboard: make tasks, rate, mark, rank, undo', async () => {
  const page = keyboard;
  await tabTo(page, 'nav a', 'Label');
  await press(page, 'Enter');
  await idle(page);
  if ((await text(page)).includes('No task')) {
    await inspect(page, 'label-empty');
    await tabTo(page, 'aside textarea');
    await page.keyboard.type(`What is 3 plus 4?\n${JSON.stringify({ prompt: 'What is 2 plus 2?', known_best: `2 plus 2 is 4. ${HOSTILE}` })}\nName a color.\nName a fruit.`);
    await tabTo(page, 'button', 'Make tasks');
    await press(page, 'Enter');
    await untilText(page, 'Answer 1 of');
  }
  await untilText(page, 'Answer 1 of');
  const k = Number((await text(page)).match(/Answer 1 of (\d)/)[1]);
  for (let i = 0; i < k; i++) {
    await press(page, String(5 - (i % 3)));
    await press(page, 'a');
    assert(await page.$eval('.marks input', (box) => box.checked), 'the letter does not set the mark');
    if (!i) await inspect(page, 'label-rate');
    await press(page, 'Enter');
  }
  await untilText(page, 'Rank the answers');
  await inspect(page, 'label-rank');
  await tabTo(page, 'button', 'Better: answer 2');
  for (let i = 0; i < k; i++) await press(page, 'Enter');
  await tabTo(page, 'input', 'Place of answer 3');
  await page.keyboard.type('1');
  await press(page, 'Tab');
  const places = await page.$$eval('.place input', (all) => all.map((one) => one.value));
  assert(places[1] === '1' && places[2] === '1', `places ${places}`);
  await press(page, 'Control', 'Enter');
  await untilText(page, 'The ratings and the ranking were saved.');
  await idle(page);
  await press(page, 'u');
  await untilText(page, 'Rank the answers');
  await tabTo(page, 'button', 'Worse: answer 4');
  await press(page, 'Enter');
  await press(page, 'Control', 'Enter');
  await untilText(page, 'The ratings and the ranking were saved.');
  await idle(page);
});
await check('label: a second person ranks the answers that the first one ranked', async () => {
  const page = await newPage();
  await open(page, '/label', 'Bob');
  await untilText(page, 'Answer 1 of');
  const task = Number((await text(page)).match(/Task (\d+)/)[1]);
  const completions = (await counts(page)).completions;
  for (let i = 0; i < 4; i++) {
    await press(page, String(2 + i));
    await press(page, 'Enter');
  }
  await untilText(page, 'Rank the answers');
  await press(page, 'Control', 'Enter');
  await untilText(page, 'The ratings and the ranking were saved.');
  assert(task === 2 && (await counts(page)).completions >= completions, `task ${task}`);
  const figures = await page.evaluate(async () => (await fetch('/api/feedback')).json());
  assert(figures.days.some((day) => day.person === 'Bob' && day.rankings === 1) && figures.agreement?.n > 0, JSON.stringify(figures));
});
await check('write by keyboard: prompt, draft, save', async () => {
  const page = keyboard;
  const before = await counts(page);
  await tabTo(page, 'nav a', 'Write');
  await press(page, 'Enter');
  await tabTo(page, '.one-turn textarea');
  await page.keyboard.type(HOSTILE);
  await press(page, 'Alt', 's');
  await until(page, () => document.activeElement.value !== '' && !document.activeElement.readOnly && document.body.innerText.includes('of the draft kept'));
  await page.keyboard.type(' And that is all.');
  await inspect(page, 'write');
  await press(page, 'Control', 'Enter');
  await untilText(page, 'The demonstration was saved.');
  assert((await counts(page)).demonstrations === before.demonstrations + 1, 'the demonstration is not counted');
});
await check('data by keyboard: figures, export', async () => {
  const page = keyboard;
  await tabTo(page, 'nav a', 'Data');
  await press(page, 'Enter');
  await untilText(page, '72.6%');
  await tabTo(page, 'button', 'Comparisons');
  await press(page, 'Enter');
  await untilText(page, 'gptkit train-rm');
  await inspect(page, 'data');
  await tabTo(page, 'summary', 'Records by day');
  await press(page, 'Enter');
  await tabTo(page, 'button', 'Show ranking');
  await press(page, 'Enter');
  await page.waitForSelector('dialog[open]');
  const shown = await text(page, 'dialog');
  assert(['weights', 'fingerprint', 'seed', 'person', 'shown'].every((part) => shown.includes(part)), shown);
  await inspect(page, 'record');
  await press(page, 'Escape');
  await until(page, () => !document.querySelector('dialog') && document.activeElement.innerText === 'Show');
});
await check('models by keyboard', async () => {
  await tabTo(keyboard, 'nav a', 'Models');
  await press(keyboard, 'Enter');
  await untilText(keyboard, 'Time to first token');
  await untilText(keyboard, 'Training');
  assert(await keyboard.$('svg.curve path') && (await text(keyboard)).includes('Base model'), 'the training is not shown');
  await sleep(2500);
  await inspect(keyboard, 'models');
});

// By pointer

const pointer = await newPage();
await open(pointer, '/');
await check('chat by pointer: hostile text, stop, thumbs, edit, copy, export, new chat', async () => {
  const page = pointer;
  await page.click(BOX);
  await page.keyboard.type(HOSTILE.slice(0, 90));
  await click(page, 'Send');
  await answered(page, 1);
  assert(await page.evaluate(() => window.hostile === undefined && !document.querySelector('main script, main img')), 'hostile text became elements');
  assert((await text(page, '.turn.user .text')).includes('<script>'), 'hostile text is not shown');
  await click(page, 'Bad answer');
  await until(page, () => document.querySelector('[aria-label="Bad answer"][aria-pressed=true]'));
  await click(page, 'Edit');
  await click(page, 'Send as a new branch');
  await sleep(50);
  await click(page, 'Stop (Esc)').catch(() => {});
  await answered(page, 1);
  await click(page, 'Copy');
  await click(page, 'Export');
  await page.setViewport({ width: 320, height: 640 });
  await click(page, 'Menu');
  await page.waitForSelector('nav.open');
  await page.screenshot({ path: path.join(shots, 'menu-320-light.png') });
  await click(page, 'Menu');
  await page.setViewport({ width: 1280, height: 800 });
  await click(page, 'New chat');
  await until(page, () => document.body.innerText.includes('begin with one of these'));
  await click(page, 'Earlier conversations', 'summary');
  await page.click('.plain button');
  await until(page, () => document.querySelector('.turn.user .text')?.innerText.includes('<script>'));
  await click(page, 'New chat');
  await page.click('.plain li button:last-child');
  await untilText(page, 'None on this device.');
});
await check('chat by pointer: a model that was not trained for dialogue', async () => {
  const page = pointer;
  const base = await page.evaluate(async () => (await (await fetch('/api/session')).json()).models.find((one) => !one.chat)?.name);
  if (!base) return console.log('      (none is served)');
  const shown = await page.$eval('main select', (one) => one.value);
  await page.select('main select', base);
  await page.click('.fill .field > textarea');
  await page.keyboard.type('Once upon a time');
  await click(page, 'Continue');
  await until(page, () => document.querySelector('.fill .field > textarea').value.length > 20 && [...document.querySelectorAll('button')].some((one) => one.innerText === 'Continue'));
  await inspect(page, 'chat-base');
  await click(page, 'Remove the continuation');
  await page.select('main select', shown);
});
await check('compare, label, write, data by pointer', async () => {
  const page = pointer;
  await click(page, 'Compare', 'nav a');
  await page.click('main .field > textarea');
  await page.keyboard.type('Name a color.');
  await click(page, 'Compare');
  await until(page, () => document.querySelector('.votes button:not(:disabled)'));
  await click(page, 'Both bad (b)');
  await untilText(page, 'The vote was saved.');
  await click(page, 'Label', 'nav a');
  await idle(page);
  await untilText(page, 'Answer 1 of');
  await click(page, 'Next');
  assert((await text(page)).includes('first.'), 'an answer without a rating is accepted');
  await page.click('.scale label:nth-child(6)');
  await page.click('.marks label');
  await click(page, 'Next');
  await untilText(page, 'Answer 2 of');
  await page.evaluate(() => [...document.querySelectorAll('summary')].find((one) => one.innerText.includes('Skip')).scrollIntoView());
  await click(page, 'Skip this task', 'summary');
  await click(page, 'Skip');
  await untilText(page, 'The task was skipped.');
  await idle(page);
  await click(page, 'Write', 'nav a');
  await page.click('.one-turn textarea');
  await page.keyboard.type('Say hello.');
  await click(page, 'Suggest');
  await untilText(page, 'of the draft kept');
  await click(page, 'Add a turn of both');
  await click(page, 'Remove the last turn of both');
  await click(page, 'Save');
  await untilText(page, 'The demonstration was saved.');
  await click(page, 'Data', 'nav a');
  await untilText(page, '72.6%');
  await click(page, 'Exclude Anna Müller').catch(() => console.log('      (Anna Müller is not in the list of people)'));
  await sleep(300);
  await click(page, 'Include Anna Müller').catch(() => {});
});
await check('data: a person is deleted after a question', async () => {
  const page = pointer;
  const rated = await page.evaluate(async () => {
    const post = async (path, body) => (await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json', 'x-gptkit-person': 'Zoe%20Leaving' }, body: JSON.stringify(body) })).json();
    const answer = await post('/v1/chat/completions', { messages: [{ role: 'user', content: 'Hello' }], store: true, max_tokens: 4 });
    return post('/api/ratings', { client_id: String(Math.random()), answer: { request: answer.id, choice: 0 }, thumb: 'up' });
  });
  await click(page, 'Refresh');
  await page.waitForSelector(`[aria-label="Show rating-${rated.id}"]`);
  for (const [answer, left] of [['Cancel', true], ['Delete', false]]) {
    await click(page, 'Delete Zoe Leaving');
    await page.waitForSelector('dialog[open]');
    if (left) await inspect(page, 'delete-person');
    await click(page, answer, 'dialog button');
    await until(page, (left) => !document.querySelector('dialog') && left === (document.querySelector('[aria-label="Delete Zoe Leaving"]') !== null), left);
    await idle(page);
  }
  assert(!(await page.$(`[aria-label="Show rating-${rated.id}"]`)), 'the rating is still listed');
});

await check('hostile text and a line of 100 kB are text on every screen', async () => {
  const page = pointer;
  await click(page, 'Write', 'nav a');
  const areas = await page.$$('.one-turn textarea');
  await areas[0].type(HOSTILE);
  await areas[1].evaluate((area, long) => {
    area.value = long;
    area.dispatchEvent(new Event('input'));
  }, HOSTILE + 'x'.repeat(100_000));
  await click(page, 'Save');
  await untilText(page, 'The demonstration was saved.');
  await click(page, 'Data', 'nav a');
  await untilText(page, '72.6%');
  await page.click('[aria-label^="Show demonstration"]');
  await page.waitForSelector('dialog[open]');
  assert((await text(page, 'dialog')).includes('<script>') && (await text(page, 'dialog')).length > 100_000, 'the record is not shown');
  await page.screenshot({ path: path.join(shots, 'record-hostile-1280-light.png') });
  await page.setViewport({ width: 320, height: 640 });
  assert(await page.evaluate(() => document.querySelector('dialog').scrollWidth <= 320 && document.documentElement.scrollWidth <= 320), 'the record scrolls sideways');
  await page.screenshot({ path: path.join(shots, 'record-hostile-320-light.png') });
  await page.setViewport({ width: 1280, height: 800 });
  await click(page, 'Close');
  const rated = await page.evaluate(async (note) => {
    const post = async (path, body) => (await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json', 'x-gptkit-person': encodeURIComponent(note.slice(0, 20)) }, body: JSON.stringify(body) })).json();
    const answer = await post('/v1/chat/completions', { messages: [{ role: 'user', content: note.slice(0, 90) }], store: true, max_tokens: 4 });
    return post('/api/ratings', { client_id: String(Math.random()), answer: { request: answer.id, choice: 0 }, thumb: 'up', note });
  }, HOSTILE.replace(/[\u001b]/g, ''));
  assert(rated.id, JSON.stringify(rated));
  await click(page, 'Refresh');
  await page.waitForSelector('[aria-label="Show rating-' + rated.id + '"]');
  await page.click('[aria-label="Show rating-' + rated.id + '"]');
  await page.waitForSelector('dialog[open]');
  await inspect(page, 'record-note');
  await click(page, 'Close');
  assert(await page.evaluate(() => window.hostile === undefined && !document.querySelector('main script, main img, dialog script')), 'hostile text became elements');
});

// Faults

await check('a stream without [DONE]: the text stays, and it can be tried again', async () => {
  const page = pointer;
  await open(page, '/');
  await page.setRequestInterception(true);
  let answers = [];
  const chunk = (content) => `data: ${JSON.stringify({ id: 'x', choices: [{ index: 0, delta: { content }, logprobs: null, finish_reason: null }] })}\n\n`;
  page.on('request', (request) => {
    const answer = request.url().includes('completions') && answers.shift();
    return answer ? request.respond(answer) : request.continue();
  });
  const ask = async () => {
    await click(page, 'New chat');
    await page.type(BOX, 'Hello');
    await press(page, 'Enter');
    await page.waitForSelector('.fault');
  };
  answers = [{ status: 200, contentType: 'text/event-stream', body: chunk('Hello ') + chunk('you') }];
  await ask();
  const shown = await text(page, '.turn.assistant');
  assert(shown.includes('Hello you') && shown.includes('The connection was lost after 2 tokens.'), shown);
  await inspect(page, 'chat-broken');
  await click(page, 'Try again');
  await until(page, () => document.body.innerText.includes('2 of 2') && !document.querySelector('.writing'));
  expected = true;
  answers = [{ status: 429, contentType: 'application/json', headers: { 'retry-after': '7' }, body: JSON.stringify({ error: { message: 'the queue is full; try again in 7 s', code: 'queue_full' } }) }];
  await ask();
  assert((await text(page, '.fault')).includes('7 s'), await text(page, '.fault'));
  await page.screenshot({ path: path.join(shots, 'chat-429-1280-light.png') });
  await click(page, 'Try again');
  await until(page, () => document.querySelector('.turn.assistant .tools') && !document.querySelector('.writing, .fault'));
  expected = false;
});
await check('offline: feedback is kept and sent once, also when the acknowledgment is lost', async () => {
  const page = await newPage();
  await open(page, '/');
  await page.type(BOX, 'Hello');
  await press(page, 'Enter');
  await answered(page, 1);
  const before = await counts(page);
  expected = true;
  await page.setOfflineMode(true);
  await click(page, 'Good answer');
  await untilText(page, '1 record of feedback waits');
  await inspect(page, 'chat-offline');
  await page.setOfflineMode(false);
  await until(page, () => !Object.keys(localStorage).some((key) => key.startsWith('gptkit.outbox.')));
  assert((await counts(page)).ratings === before.ratings + 1, 'the rating was not stored once');
  await click(page, 'New chat');
  await page.type(BOX, 'Hello');
  await press(page, 'Enter');
  await answered(page, 1);
  await page.evaluate(() => {
    const real = window.fetch;
    window.lost = 0;
    window.fetch = async (...all) => {
      const response = await real(...all);
      if (String(all[0]) !== '/api/ratings' || window.lost++) return response;
      throw new TypeError('the acknowledgment was lost');
    };
  });
  await click(page, 'Bad answer');
  await until(page, () => window.lost > 1 && !Object.keys(localStorage).some((key) => key.startsWith('gptkit.outbox.')));
  await sleep(200);
  const after = await counts(page);
  assert(after.ratings === before.ratings + 2, `not stored once: ${JSON.stringify([before, after])}`);
  expected = false;
});

await check('no console message, no request to another host, at most 100 KiB', async () => {
  const total = [...weights.values()].reduce((sum, one) => sum + one, 0);
  console.log(`      ${weights.size} files, ${total} bytes`);
  assert(!foreign.size, [...foreign].join(', '));
  assert(!messages.length, messages.join('\n'));
  assert(total <= 102_400, `${total} bytes`);
  assert(!uncompressed.size, `not compressed: ${[...uncompressed].join(', ')}`);
});
await browser.close();
console.log(failed ? `${failed} checks failed` : 'all checks passed');
process.exit(failed ? 1 : 0);
