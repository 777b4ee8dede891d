import { h } from './dom.js';
export const label = { path: '/label', title: 'Label', keys: [], open: (main) => { main.append(h('p', {}, 'Not written yet.')); return null; } };
