import { h } from './dom.js';
export const models = { path: '/models', title: 'Models', keys: [], open: (main) => { main.append(h('p', {}, 'Not written yet.')); return null; } };
