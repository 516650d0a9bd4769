// Figures of the key page: how soon a list is seen, and how many bytes it is.
import test from 'node:test'
import assert from 'node:assert/strict'
import { browser, dashboard, heading, person } from './lib.mjs'

const loads = 15
const most = 1.2 // times: a list of many keys, compared with one of few
const noise = 8 // ms: what the clock of the browser and a busy machine add
const kB = { 'the list': 40, 'page.js': 30, 'page.css': 12 } // over the wire, with headers

const median = (all) => [...all].sort((a, b) => a - b)[all.length >> 1]

// load loads the list without a cache, and returns what the browser measured.
async function load(p) {
	await p.page.goto(p.d.url)
	return p.page.evaluate(async () => {
		const paint = () => performance.getEntriesByType('paint').find((e) => e.name === 'first-contentful-paint')?.startTime
		while (!paint()) await new Promise((done) => setTimeout(done, 5))
		const size = Object.fromEntries(performance.getEntriesByType('resource').map((e) => [new URL(e.name).pathname.split('/').pop(), e.transferSize]))
		return { paint: paint(), size: { ...size, 'the list': performance.getEntriesByType('navigation')[0].transferSize } }
	})
}

test('first contentful paint of 10,000 keys, and bytes over the wire', { timeout: 180_000 }, async (t) => {
	const people = {}
	for (const keys of [50, 10_000]) {
		const p = people[keys] = await person(t, await browser(), await dashboard(t, 'uddoktapay', '-seed', String(keys)))
		await heading(p, 'API keys')
		const cdp = await p.context.newCDPSession(p.page)
		await cdp.send('Network.enable')
		await cdp.send('Network.setCacheDisabled', { cacheDisabled: true })
		await load(p)
	}
	const paints = { 50: [], 10000: [] }
	let size
	for (let i = 0; i < loads; i++) {
		for (const keys of i % 2 ? [50, 10_000] : [10_000, 50]) {
			const p = people[keys]
			await p.page.bringToFront()
			const got = await load(p)
			paints[keys].push(got.paint)
			if (keys === 10_000) size = got.size
		}
	}
	const few = median(paints[50]), many = median(paints[10000])
	t.diagnostic(`first contentful paint, medians of ${loads} loads: 50 keys ${few.toFixed(1)} ms, 10,000 keys ${many.toFixed(1)} ms, ratio ${(many / few).toFixed(2)}`)
	t.diagnostic(`over the wire, bytes: ${JSON.stringify(size)}`)
	assert.ok(many <= few * most + noise, `${many} ms > ${few} ms × ${most} + ${noise} ms`)
	for (const [name, max] of Object.entries(kB)) {
		const key = Object.keys(size).find((n) => n === name || n.startsWith(name.split('.')[0]) && n.endsWith('.' + name.split('.')[1]))
		assert.ok(size[key] > 0, `${name} was loaded: ${JSON.stringify(size)}`)
		assert.ok(size[key] <= max * 1000, `${name}: ${size[key]} bytes > ${max} kB`)
	}
})
