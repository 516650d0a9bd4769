// Figures of the key page: how soon a list is seen, how many bytes it is, and how much a
// page of another origin can change.
import test from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer as createHTTP } from 'node:http'
import { browser, dashboard, heading, pause, person } from './lib.mjs'

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

// The routes that change something are read from the handler: a new one is attacked too.
const handler = readFileSync(new URL('../../admin/keypage/handler.go', import.meta.url), 'utf8')
const routes = [...handler.matchAll(/"POST (\/[^"]*)"/g)].map(([, route]) => route)

// fields are those that the key page would take, and do what its person has not asked for.
const fields = (keys) => ({
	'/new': { mode: 'live', name: 'forged', scope: 'payment:checkout', active: '1' },
	'/revoke': { mode: 'live', id: keys[0], count: '1', reason: 'unneeded' },
	'/key/{id}/edit': { name: 'forged', scope: 'payment:checkout', active: '1' },
	'/key/{id}/regenerate': { time: 'now', overlap: '0', agree: '1' },
	'/key/{id}/revoke': { reason: 'unneeded' },
	'/factors/{factor}': { do: 'enroll' },
})

// forms are those of the attack: each route with a key of its own that is active.
function forms(d, keys, tag) {
	const of = fields(keys)
	return routes.map((route, i) => ({
		route, action: d.url + route.replace('{id}', keys[i + 1]).replace('{factor}', 'totp'), fields: { tag, ...of[route] },
	}))
}

const html = (text) => text.replaceAll('&', '&amp;').replaceAll('"', '&quot;').replaceAll('<', '&lt;')

// formPage is a page whose form is sent at once.
const formPage = (form) => `<!doctype html><form method="post" action="${form.action}">${Object.entries(form.fields).map(([name, value]) => `<input type="hidden" name="${name}" value="${html(value)}">`).join('')}</form><script>document.forms[0].submit()</script>`

// elsewhere serves pages of another port, which is the same site for a cookie.
async function elsewhere(t) {
	const pages = new Map()
	const server = createHTTP((request, response) => {
		response.setHeader('Content-Type', 'text/html; charset=utf-8')
		response.end(pages.get(request.url) ?? '<!doctype html>')
	})
	server.listen(0, '127.0.0.1')
	await once(server, 'listening')
	t.after(() => { server.close(); server.closeAllConnections() })
	return { pages, origin: `http://127.0.0.1:${server.address().port}` }
}

test('a page of another origin changes nothing, and frames nothing', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '70')
	const p = await person(t, await browser(), d)
	await heading(p, 'API keys')
	const page = p.page
	// state is what the API says of all keys, and of all events.
	const state = async () => {
		const cookie = (await p.context.cookies()).map((c) => `${c.name}=${c.value}`).join('; ')
		const all = {}
		for (const what of ['keys', 'events']) {
			all[what] = []
			for (let cursor = ''; ;) {
				const answer = await fetch(`${d.origin}/api/v1/${what}?limit=100${cursor && `&cursor=${encodeURIComponent(cursor)}`}`, { headers: { Cookie: cookie } })
				assert.equal(answer.status, 200)
				const body = await answer.json()
				all[what].push(...body.data)
				if (!(cursor = body.next)) break
			}
		}
		return all
	}
	const changes = (a, b) => {
		const old = new Map(a.keys.map((k) => [k.id, JSON.stringify(k)]))
		return b.keys.filter((k) => old.get(k.id) !== JSON.stringify(k)).length + a.keys.length - b.keys.filter((k) => old.has(k.id)).length + b.events.length - a.events.length
	}
	const before = await state()
	const active = before.keys.filter((k) => k.state === 'active' && k.mode === 'live' && !k.expires_at).map((k) => k.id)
	assert.ok(active.length > routes.length && routes.length >= 11, `${active.length} keys, ${routes.length} routes`)
	// The attacker knows the tag of the form too, so that only the origin is left to refuse.
	const tag = await page.locator('input[name=tag]').first().inputValue()
	const attack = forms(d, active, tag)
	const other = await elsewhere(t)

	// A form without a referrer has "Origin: null" too, and the cookie of the same site. A
	// browser takes a sandboxed page for another site, and sends it without the cookie.
	const ways = {
		plain: { origin: other.origin, cookie: true, page: formPage },
		'no referrer': { origin: 'null', cookie: true, page: (form) => formPage(form).replace('<form', '<meta name="referrer" content="no-referrer"><form') },
		sandboxed: { origin: 'null', cookie: false, page: (form) => `<!doctype html><iframe sandbox="allow-scripts allow-forms allow-top-navigation" srcdoc="${html(formPage(form).replace('<form', '<form target="_top"'))}"></iframe>` },
	}
	const refused = {}
	for (const [way, its] of Object.entries(ways)) {
		for (const [i, form] of attack.entries()) {
			const path = `/${Object.keys(ways).indexOf(way)}/${i}`
			other.pages.set(path, its.page(form))
			const sent = page.waitForResponse((r) => r.request().method() === 'POST')
			await page.goto(other.origin + path, { waitUntil: 'commit' })
			const answer = await sent
			const headers = await answer.request().allHeaders()
			const said = `${way} ${form.route}`
			assert.equal(/dashboard_session=/.test(headers.cookie), its.cookie, `${said}: the cookie was sent`)
			assert.equal(headers.origin, its.origin, said)
			assert.equal(answer.status(), 403, said) // 401 would be: nobody is signed in
			assert.match(await answer.text(), /Its header |another site asks/, `${said}: refused as of another site`)
			refused[way] = (refused[way] ?? 0) + 1
		}
	}
	const changed = changes(before, await state())

	// Framed by the page of the other origin, nothing of the key page is shown.
	// The last frame is one that is shown, so that the count is seen to count.
	other.pages.set('/framed', '<!doctype html><h1 data-screen>Shown</h1>')
	other.pages.set('/frame', [...['', '/new', `/key/${active[0]}`].map((rest) => d.url + rest), '/framed'].map((src) => `<iframe src="${src}"></iframe>`).join(''))
	await page.goto(other.origin + '/frame')
	await pause(500)
	assert.equal(page.frames().length, 5)
	const shown = []
	for (const frame of page.frames().slice(1)) {
		// What was blocked is an error page of the browser.
		if (await Promise.race([frame.locator('[data-screen]').count().catch(() => 0), pause(1000)])) shown.push(new URL(frame.url()).pathname)
	}
	t.diagnostic(`of another origin: ${routes.length} routes, forms refused ${JSON.stringify(refused)}, changed ${changed}, frames of the key page shown ${shown.length - 1}`)
	assert.deepEqual({ changed, shown }, { changed: 0, shown: ['/framed'] })

	// The same forms of the page itself do change things: the attack would have been seen.
	let worked = 0
	await page.goto(d.url)
	for (const form of attack) {
		const was = await state()
		const sent = page.waitForResponse((r) => r.request().method() === 'POST')
		const arrived = page.waitForNavigation()
		await page.evaluate((form) => {
			const f = Object.assign(document.createElement('form'), { method: 'post', action: form.action })
			for (const [name, value] of Object.entries(form.fields)) f.append(Object.assign(document.createElement('input'), { type: 'hidden', name, value }))
			document.body.append(f)
			HTMLFormElement.prototype.submit.call(f)
		}, form)
		const answer = await sent
		await arrived
		const n = changes(was, await state())
		if (n) worked++
		t.diagnostic(`control: ${form.route}: ${answer.status()}, changed ${n}`)
		await page.goto(d.url)
	}
	// The browser says of each frame that it was refused: no fault of the page.
	const refusals = p.faults.filter((f) => f.startsWith("Framing ") && f.includes("frame-ancestors 'none'"))
	assert.equal(refusals.length, 3)
	p.faults = p.faults.filter((f) => !refusals.includes(f))
	assert.ok(worked >= 4, `${worked} of the same forms change something when the page itself sends them`)
})
