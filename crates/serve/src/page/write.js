import { h } from './dom.js';
export const writing = { path: '/write', title: 'Write', keys: [], open: (main) => { main.append(h('p', {}, 'Not written yet.')); return null; } };
