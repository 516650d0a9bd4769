// The key page as an element of another page, which has a router, a hostile style sheet and a
// list of Trusted Types of its own (/app of the dashboard). The journeys inside it are in
// journeys.test.mjs.
import test from 'node:test'
import assert from 'node:assert/strict'
import puppeteer from 'puppeteer-core'
import { axeSource, browser, button, dashboard, done, heading, hits, link, on, password, pause, person, pin, saved, secretIn, until } from './lib.mjs'

const inside = { embedded: true }

// created makes a key, and returns the dialog that shows its secret.
async function created(p, name) {
	await link(await heading(p, 'API keys'), 'New API key').click()
	const dialog = await on(p, 'New API key')
	await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill(name)
	await button(dialog, 'Create key').click()
	return on(p, 'API key created')
}

// heard collects the events of the element, as any listener of the page gets them.
const heard = (p) => p.page.evaluate(() => {
	window.heard = []
	const element = document.querySelector('apikey-page')
	for (const what of ['open', 'closed']) element.addEventListener('apikey-secret-' + what, (e) => heard.push([what, JSON.stringify(e.detail), e.bubbles, e.composed]))
})
const events = (p) => p.page.evaluate(() => window.heard)

test('Trusted Types of the host are in force, and the element needs none', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay')
	const p = await person(t, await browser(), d, 'admin', inside)
	await heading(p, 'API keys')
	const refused = await p.page.evaluate(() => {
		const tries = { parse: () => new DOMParser().parseFromString('<p>', 'text/html'), policy: () => trustedTypes.createPolicy('other', {}) }
		return Object.entries(tries).filter(([, f]) => { try { f(); return false } catch { return true } }).map(([name]) => name)
	})
	assert.deepEqual(refused, ['parse', 'policy'])
	await until('violations are seen', () => p.faults.filter((f) => f.startsWith('CSP violation')).length === 2)
	p.faults.length = 0 // those that this test has made
})

test('a secret while its element is moved, removed, and left by the router', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d, 'admin', inside)
	await heading(p, 'API keys')
	await heard(p)
	let dialog = await created(p, 'moved')
	let token = await secretIn(dialog)
	assert.ok((await hits(p, token)).shown >= 1, 'the scan sees what is shown')
	assert.deepEqual(await events(p), [['open', '{"once":true}', true, true]])

	// Moved, as React moves elements: three ways, each within one task.
	const ways = {
		append: (e) => { const to = document.createElement('div'); document.querySelector('main').append(to); to.append(e) },
		'remove and append': (e) => { e.remove(); document.querySelector('main').append(e) },
		'move its parent': (e) => { const to = document.createElement('section'); e.replaceWith(to); to.append(e); document.body.append(to); document.querySelector('main').append(to) },
	}
	for (const [way, move] of Object.entries(ways)) {
		await p.page.evaluate(`(${move})(document.querySelector('apikey-page'))`)
		await pause(200)
		assert.equal(await secretIn(dialog), token, way)
		const state = await p.page.evaluate(() => {
			const root = document.querySelector('apikey-page').shadowRoot
			return { modal: root.querySelector('dialog').matches(':modal'), focus: root.activeElement?.localName }
		})
		assert.deepEqual(state, { modal: true, focus: 'textarea' }, way)
		for (let i = 0; i < 4; i++) await p.page.keyboard.press('Escape')
		await p.page.mouse.click(5, 5)
		await pause(200)
		assert.equal(await secretIn(dialog), token, `${way}, Esc and a click outside`)
	}
	assert.equal((await events(p)).length, 1)
	await saved(p, dialog)
	await heading(p, 'moved')
	assert.deepEqual(await hits(p, token), {})
	assert.deepEqual((await events(p)).map(([what]) => what), ['open', 'closed'])
	assert.ok(!JSON.stringify(await events(p)).includes(token))
	assert.equal(new URL(p.page.url()).pathname, '/app')

	// The focus is in the screen, what was done is said, and no history was made.
	await link(p.page.getByRole('main'), 'All keys').click()
	await heading(p, 'API keys')
	assert.equal(await p.page.evaluate(() => document.querySelector('apikey-page').shadowRoot.activeElement?.localName), 'h1')

	// Removed while it is shown.
	dialog = await created(p, 'removed')
	token = await secretIn(dialog)
	const left = await p.page.evaluate(async () => {
		window.removed = document.querySelector('apikey-page')
		window.area = removed.shadowRoot.querySelector('[data-secret] textarea')
		removed.remove()
		await null
		await null
		return [area.value, area.defaultValue, area.textContent, removed.shadowRoot.innerHTML].join('')
	})
	assert.equal(left, '')
	assert.deepEqual(await hits(p, token), {})
	assert.deepEqual((await events(p)).map(([what]) => what), ['open', 'closed', 'open', 'closed'])
	// It comes back as a new one.
	await p.page.evaluate(() => document.querySelector('main').append(removed))
	await heading(p, 'API keys')
	assert.deepEqual(await hits(p, token), {})

	// The router asks before it leaves: Back, with no and with yes.
	await p.page.goto(d.origin + '/app/orders')
	await link(p.page, 'Keys').click()
	dialog = await created(p, 'back')
	token = await secretIn(dialog)
	const asked = []
	let answer = false
	p.page.on('dialog', (q) => { asked.push(q.type()); return answer ? q.accept() : q.dismiss() })
	await p.page.evaluate(() => history.back())
	await until('a question', () => asked.length === 1)
	await pause(200)
	assert.equal(await secretIn(dialog), token)
	assert.equal(new URL(p.page.url()).pathname, '/app')
	answer = true
	await p.page.evaluate(() => history.back())
	await heading(p, 'Orders')
	assert.deepEqual(asked, ['confirm', 'confirm'])
	assert.deepEqual(await hits(p, token), {})
	// Without a secret nobody is asked.
	await link(p.page, 'Keys').click()
	await heading(p, 'API keys')
	await p.page.goBack()
	await heading(p, 'Orders')
	assert.equal(asked.length, 2)
})

test('what the element refuses', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d, 'admin', inside)
	await heading(p, 'API keys')
	const element = p.page.locator('apikey-page')
	const before = p.urls.length
	for (const src of ['https://elsewhere.example/keys', '//elsewhere.example/keys', 'data:text/html,<p>', 'http://[', '']) {
		await element.evaluate((e, src) => e.setAttribute('src', src), src)
		await element.getByRole('alert').filter({ hasText: 'not an address of this site' }).waitFor()
	}
	assert.deepEqual(p.urls.slice(before), [])

	// A server of another version: nothing is done, the page is not reloaded, and what was
	// typed stays.
	await element.evaluate((e) => e.setAttribute('src', '/settings/keys'))
	await link(await heading(p, 'API keys'), 'New API key').click()
	const dialog = await on(p, 'New API key')
	await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('typed')
	await p.page.evaluate(() => { window.same = true })
	await p.page.route('**/settings/keys**', (r) => r.continue({ headers: { ...r.request().headers(), 'apikey-fragment': '0123456789abcdef' } }))
	await p.page.route('**/settings/keys/new', (r) => r.fulfill({ status: 409, headers: { 'Apikey-Fragment': '0123456789abcdef', 'Content-Type': 'text/html; charset=utf-8' }, body: '<p role="alert">Reload it.</p>' }))
	await button(dialog, 'Create key').click()
	await dialog.getByRole('alert').filter({ hasText: 'Reload it.' }).waitFor()
	assert.equal(await dialog.getByRole('textbox', { name: 'Name', exact: true }).inputValue(), 'typed')
	assert.ok(await p.page.evaluate(() => window.same))

	// The session has ended: the way back from the sign-in is the page of the host.
	await p.page.unrouteAll()
	await p.context.clearCookies()
	await element.evaluate((e) => e.again())
	const signIn = p.page.getByRole('main').getByRole('link', { name: 'Sign in' })
	await signIn.waitFor()
	assert.equal(await signIn.getAttribute('href'), '/login?back=%2Fapp')
})

test('copies without the clipboard API', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d, 'admin', inside)
	const copied = async (where) => {
		await where.getByRole('status').filter({ hasText: 'Copied' }).waitFor()
		return p.page.evaluate(() => Object.getPrototypeOf(navigator.clipboard).readText.call(navigator.clipboard))
	}
	const dialog = await created(p, 'copied')
	await p.page.evaluate(() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')) })
	await button(dialog, 'Copy secret key').click()
	assert.equal(await copied(dialog), await secretIn(dialog))
	await saved(p, dialog)
	const main = await heading(p, 'copied')
	await button(main, 'Copy client ID').click()
	assert.equal(await copied(main), await p.page.locator('#ak-client').innerText())
})

test('the style sheet of the host changes nothing', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'doku')
	const page = d.url
	const p = await person(t, await browser(), d, 'admin', inside)
	const parts = ['h1', 'table', 'tbody th', 'tbody th a', 'td', '.ak-badge', '.ak-filter label', '.ak-filter input', '.ak-filter select', '.ak-filter button', '.ak-who', '.ak-home', 'thead th', '.ak-button', 'textarea', 'summary', 'code', 'time']
	const styles = async () => {
		await heading(p, 'API keys')
		return p.page.evaluate((parts) => {
			const root = document.querySelector('apikey-page')?.shadowRoot ?? document
			// The color-scheme of the full page is that of its head. Sizes follow from the width of the window, which is the same, but for a scroll bar.
			const sizes = /^(width|inline-size|height|block-size|perspective-origin|transform-origin|.*inset.*|top|left|right|bottom)$/
			return Object.fromEntries(parts.map((part) => {
				const of = getComputedStyle(root.querySelector(part))
				return [part, Object.fromEntries([...of].filter((name) => !sizes.test(name) && !name.startsWith('--') && name !== 'color-scheme').map((name) => [name, of.getPropertyValue(name)]))]
			}))
		}, parts)
	}
	const embedded = await styles()
	await p.page.goto(page)
	const whole = await styles()
	let compared = 0
	for (const part of parts) for (const name in whole[part]) {
		compared++
		assert.equal(embedded[part][name], whole[part][name], `${part}: ${name}`)
	}
	assert.ok(compared > 3000, `${compared} properties`)
	// The sheet is hostile: without a shadow root it would change all of them.
	await p.page.goto(d.url)
	await heading(p, 'API keys')
	const outside = await p.page.evaluate(() => {
		const h = document.querySelector('main').appendChild(document.createElement('h1'))
		const of = getComputedStyle(h)
		return [of.fontSize, of.color, of.textTransform, of.direction]
	})
	assert.deepEqual(outside, ['20px', 'rgb(0, 102, 51)', 'uppercase', 'rtl'])
	const host = await p.page.locator('apikey-page').evaluate((e) => { const of = getComputedStyle(e); return [of.opacity, of.transform, of.zoom, of.display] })
	assert.deepEqual(host, ['1', 'none', '1', 'block'])
	t.diagnostic(`${compared} computed properties of ${parts.length} elements are the same`)
})

test('axe-core finds nothing inside the element', { timeout: 180_000 }, async (t) => {
	const d = await dashboard(t, 'pin')
	const p = await person(t, await browser(), d, 'admin', { ...inside, bypassCSP: true }) // axe-core adds a style
	const found = []
	let checks = 0, nodes = 0
	const at = async (state) => {
		for (const width of [1280, 320]) {
			await p.page.setViewportSize({ width, height: 800 })
			await p.page.emulateMedia({ reducedMotion: 'reduce' })
			await p.page.evaluate(axeSource)
			const result = await p.page.evaluate(() => axe.run({ include: [['apikey-page']] }, { runOnly: { type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa', 'best-practice'] }, resultTypes: ['violations', 'passes'] }))
			checks++
			nodes += result.passes.flatMap((r) => r.nodes).filter((n) => n.target.some((x) => Array.isArray(x))).length
			for (const v of result.violations) for (const n of v.nodes) found.push(`${state} ${width}: ${v.id}: ${n.html.slice(0, 120)}`)
			const wide = await p.page.evaluate(() => { const r = document.querySelector('apikey-page').shadowRoot; return [r.querySelector('.ak'), r.querySelector('dialog[open]')].filter((e) => e && e.scrollWidth > e.clientWidth).length })
			if (wide) found.push(`${state} ${width}: scrolls sideways`)
		}
		await p.page.setViewportSize({ width: 1280, height: 800 })
	}
	await heading(p, 'API keys')
	await at('list')
	await link(p.page.getByRole('region', { name: 'collection' }), 'Generate').click()
	let dialog = await on(p, 'Generate a key')
	await at('new')
	await button(dialog, 'Continue').click()
	dialog = await on(p, 'Confirm that it is you')
	await at('confirm')
	await dialog.getByLabel('PIN', { exact: true }).fill(pin)
	await button(dialog, 'Confirm').click()
	dialog = await on(p, 'API key created')
	await at('secret')
	await saved(p, dialog)
	const main = await heading(p, 'collection')
	await at('key')
	await button(main, 'Reveal key').click()
	dialog = await on(p, 'Confirm that it is you')
	await dialog.getByLabel('PIN', { exact: true }).fill(pin)
	await button(dialog, 'Confirm').click()
	dialog = await on(p, 'Key revealed')
	await at('revealed')
	await done(p, dialog)
	await heading(p, 'collection')
	await link(p.page.getByRole('main'), 'Activity log').click()
	await heading(p, 'Activity log')
	await at('log')
	assert.deepEqual(found, [])
	assert.ok(nodes > 500, `${nodes} nodes in the shadow root`)
	t.diagnostic(`${checks} checks, ${nodes} results inside the shadow root, 0 violations`)
})

test('the element in Firefox', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const b = await puppeteer.launch({ browser: 'firefox', executablePath: process.env.FIREFOX || '/usr/bin/firefox-esr', headless: true })
	t.after(() => b.close())
	const page = await b.newPage()
	page.setDefaultTimeout(15_000)
	const errors = []
	page.on('pageerror', (e) => errors.push(String(e)))
	const inElement = (does, ...args) => page.evaluate(`(${does})(document.querySelector('apikey-page').shadowRoot, ...${JSON.stringify(args)})`)
	const shown = (screen) => until(`the screen ${screen}`, () => inElement((root, screen) => [...root.querySelectorAll(`[data-screen=${screen}]`)].some((e) => e.getBoundingClientRect().width > 0), screen).catch(() => false))
	const press = (selector) => inElement((root, selector) => root.querySelector(selector).click(), selector)
	const secret = () => inElement((root) => root.querySelector('dialog[open] [data-secret] textarea')?.value ?? '')

	await page.goto(d.origin + '/login')
	await page.locator('[name=user]').fill('admin')
	await page.locator('[name=password]').fill(password)
	await page.locator('button').click()
	await until('signed in', () => new URL(page.url()).pathname !== '/login')
	errors.length = 0 // those of the page alone, and not of the sign-in
	await page.goto(d.origin + '/app')
	await shown('list')
	assert.equal(await inElement((root) => getComputedStyle(root.querySelector('h1')).fontSize), '22px')
	await press('a[data-dialog]')
	await shown('form')
	await inElement((root) => { root.querySelector('#ak-name').value = 'Fox' })
	await press('dialog .ak-primary')
	await shown('secret')
	const token = await secret()
	assert.match(token, /_sk_live_/)
	await page.evaluate(() => { const to = document.createElement('div'); document.querySelector('main').append(to); to.append(document.querySelector('apikey-page')) })
	for (let i = 0; i < 4; i++) {
		await page.keyboard.press('Escape')
		await pause(200)
	}
	assert.equal(await secret(), token, 'moved, and Esc × 4')
	assert.ok(await inElement((root) => root.querySelector('dialog').matches(':modal')))
	await press('[data-copy=ak-secret]')
	await until('it says so', () => inElement((root) => /Copied|Ctrl\+C/.test(root.querySelector('dialog .ak-copied').innerText)))
	const left = await page.evaluate(async () => {
		const e = document.querySelector('apikey-page'), area = e.shadowRoot.querySelector('dialog textarea')
		e.remove()
		await null
		await null
		return area.value + area.defaultValue + e.shadowRoot.innerHTML
	})
	assert.equal(left, '')
	await d.works(token)
	assert.deepEqual(errors, [])
})
