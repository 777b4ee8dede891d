import { h } from './dom.js';
export const data = { path: '/data', title: 'Data', keys: [], open: (main) => { main.append(h('p', {}, 'Not written yet.')); return null; } };
